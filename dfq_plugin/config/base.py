"""What all sections of the settings have in common: their base class and the bounds of their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Bits = Annotated[int, Field(ge=2, le=8)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Scopes = tuple[Annotated[str, Field(min_length=1)], ...]


class Settings(BaseModel):
    """Base of every section: frozen, finite numbers only, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
