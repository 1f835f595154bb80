"""Several providers in one set: each makes its share of the images.

No paper. Objective: none of its own. Sets that are made differently fail differently; a mixture has a little of each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import pydantic
import torch
from torch import Tensor, nn

from dfq_plugin.errors import ConfigError
from dfq_plugin.providers.base import GenerationRequest, Phase, Provider, cited
from dfq_plugin.providers.registry import build_provider, register_provider
from dfq_plugin.room import room_for_images
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts

OWN = "this project"
LARGEST_SHARE = 1e6  # sums of shares stay finite, and the smallest of them still count


class Part(pydantic.BaseModel):
    """What one provider contributes."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    provider: str = cited(..., OWN, "Name of the provider.")
    share: float = cited(1.0, OWN, "Its share of the images, relative to those of the others.", gt=0, le=LARGEST_SHARE)
    params: dict[str, Any] = cited({}, OWN, "Its settings; those left out are filled with their defaults.")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _fill_params(cls, values: Any) -> Any:  # noqa: ANN401 - anything can be handed in; pydantic checks it
        """Write the defaults down as well, so that the cache and the provenance know them."""
        if not isinstance(values, Mapping) or not isinstance(values.get("provider"), str):
            return values
        params = values.get("params", {})
        if not isinstance(params, Mapping):
            return values
        try:
            provider = build_provider(values["provider"], params)
        except ConfigError as error:
            msg = str(error).replace("/calibration/params", "params")  # the pointer to this part stands before it
            raise ConfigError(msg) from error
        return {**values, "params": provider.model_dump(mode="json")}

    def build(self) -> Provider:
        """Make the provider."""
        return build_provider(self.provider, self.params)


@register_provider
class Mixture(Provider):
    """Let several providers make their shares of one set, one after the other.

    For example ``{"parts": [{"provider": "intraq", "share": 3}, {"provider": "fractal", "share": 1}]}``. Labels are
    kept when every part has them. Each part has a seed of its own, which depends on the seed and its place.
    """

    name: ClassVar[str] = "mixture"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "what its parts need"

    parts: tuple[Part, ...] = cited(..., OWN, "The providers with their shares and settings.", min_length=1)

    @property
    def cacheable(self) -> bool:  # type: ignore[override]
        """Whether the images depend on the settings and the teacher only, which a folder's do not."""
        return all(part.build().cacheable for part in self.parts)

    @property
    def revision(self) -> int:  # type: ignore[override]
        """Changes when that of a part does."""
        return sum(part.build().revision for part in self.parts)

    def phases(self, facts: ModelFacts, request: GenerationRequest) -> Sequence[Phase]:
        return [phase for provider, own in self._shares(request) for phase in provider.phases(facts, own)]

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        images = room_for_images((request.num_samples, *facts.input_shape), request.checkpoint_folder)
        made, filled = [], 0
        for provider, own in self._shares(request):
            one = provider(teacher, facts, own)
            place = images[filled : filled + len(one)].copy_(one.images)
            made.append(replace(one, images=place))
            filled += len(one)
        return SyntheticSet(
            images,
            _join(made, lambda one: one.labels),
            _join(made, lambda one: one.soft_labels),
            self.provenance(facts, request, parts=[_describe(one) for one in made]),
        )

    def _shares(self, request: GenerationRequest) -> list[tuple[Provider, GenerationRequest]]:
        """Every part that has an image to make, with what it is asked for."""
        sizes = divide([part.share for part in self.parts], request.num_samples)
        return [
            (part.build(), replace(request, num_samples=size, seed=part_seed(request.seed, index)))
            for index, (part, size) in enumerate(zip(self.parts, sizes, strict=True))
            if size
        ]


def divide(shares: Sequence[float], total: int) -> list[int]:
    """Divide images by shares into whole numbers, none further than one from its exact value.

    Args:
        shares: One a part, relative to each other.
        total: How many images.
    """
    exact = [share / sum(shares) * total for share in shares]
    sizes = [math.floor(size) for size in exact]
    by_remainder = sorted(range(len(shares)), key=lambda index: sizes[index] - exact[index])  # equal: the earlier first
    for index in by_remainder[: total - sum(sizes)]:
        sizes[index] += 1
    return sizes


def part_seed(seed: int, index: int) -> int:
    """Make the seed of a part, unrelated to those of all other seeds and parts."""
    digest = hashlib.sha256(f"{seed}/part {index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _describe(made: SyntheticSet) -> dict[str, Any]:
    return {"images": len(made), **asdict(made.provenance)}


def _join(made: Sequence[SyntheticSet], read: Callable[[SyntheticSet], Tensor | None]) -> Tensor | None:
    found = [tensor for tensor in map(read, made) if tensor is not None]
    return torch.cat(found) if len(found) == len(made) else None
