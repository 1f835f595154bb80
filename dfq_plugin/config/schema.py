"""The settings of a job, one class a section, each field with its default, its bounds and what it does.

The larger sections have files of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from dfq_plugin.config.base import Count, Positive, Seed, Settings
from dfq_plugin.config.export_settings import MOST_BITS, ExportSettings, ValidateSettings
from dfq_plugin.config.finetune_settings import FinetuneSettings
from dfq_plugin.config.quantize_settings import QuantizeSettings
from dfq_plugin.config.tracking_settings import TrackingSettings
from dfq_plugin.errors import ConfigError


class Note(Settings):
    """What became of something in the file, for the user to read."""

    level: Literal["mapped", "approximated", "default", "ignored"] = Field(description="How closely it was followed.")
    pointer: str = Field(description="JSON pointer into the file as it was written.")
    message: str = Field(description="What was done with it, and what to write for something else.")


class ModelSettings(Settings):
    """Where the trained network comes from."""

    source: str = Field(
        pattern=r"^(torchvision:.+|timm:.+|python:\w+(\.\w+)*:\w+(\.\w+)*)$",
        description="The network: a torchvision or timm name, or a function of yours that returns an `nn.Module`.",
        json_schema_extra={"allowed": "'torchvision:NAME', 'timm:NAME' or 'python:package.module:factory'"},
    )
    weights: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="The trained weights: a torchvision or timm tag, a `.safetensors` file, or a `.pt`/`.pth` file.",
    )
    mean: tuple[float, ...] | None = Field(
        default=None, description="Mean of each channel, of pixels in 0..1, that the network was trained with."
    )
    std: tuple[Positive, ...] | None = Field(
        default=None, description="Standard deviation of each channel, of pixels in 0..1, likewise."
    )

    @model_validator(mode="after")
    def _check_normalisation(self) -> ModelSettings:
        if (self.mean is None) != (self.std is None):
            msg = "mean and std belong together; give both or neither"
            raise ConfigError(msg)
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            msg = f"mean has {len(self.mean)} values and std has {len(self.std)}; give one of each per channel"
            raise ConfigError(msg)
        return self


class CalibrationSettings(Settings):
    """Which provider makes the synthetic images, and how many."""

    provider: str = Field(
        default="intraq", min_length=1, description="Name of the provider; `dfq providers` lists them."
    )
    num_samples: Count = Field(default=256, description="Number of images to make.")
    seed: Seed = Field(default=0, description="Seed of the images.")
    params: dict[str, Any] = Field(default={}, description="The provider's own settings.")
    cache: bool = Field(
        default=True, description="Take the images from the cache when the same request was made before."
    )

    @field_validator("params")
    @classmethod
    def _copy_as_json(cls, params: dict[str, Any]) -> dict[str, Any]:
        try:
            copy: dict[str, Any] = json.loads(json.dumps(params, allow_nan=False))
        except (TypeError, ValueError) as error:
            msg = f"must be writable as JSON with finite numbers: {error}"
            raise ConfigError(msg) from error
        return copy


class Config(Settings):
    """A whole job, as one file says it."""

    model: ModelSettings = Field(description="Where the trained network comes from.")
    input_shape: tuple[Count, Count, Count] = Field(
        description="One image: channels, height, width.",
        json_schema_extra={"allowed": "[channels, height, width], each at least 1"},
    )
    recipe: Literal["fast", "balanced", "best"] | None = Field(
        default=None,
        description="Choose what is said nowhere, to suit the bits: a result in seconds, in minutes, or as good as it "
        "gets.",
    )
    calibration: CalibrationSettings = Field(
        default=CalibrationSettings(), description="Which provider makes the synthetic images, and how many."
    )
    quantize: QuantizeSettings = Field(default=QuantizeSettings(), description="How the student is quantized.")
    finetune: FinetuneSettings = Field(
        default=FinetuneSettings(), description="How the student learns from the teacher on the synthetic images."
    )
    export: ExportSettings = Field(default=ExportSettings(), description="How the ONNX file is written.")
    validation: ValidateSettings = Field(
        default=ValidateSettings(), alias="validate", description="How the ONNX file is checked."
    )
    tracking: TrackingSettings = Field(
        default=TrackingSettings(), description="Where curves, final figures and the report are sent."
    )
    output_dir: Annotated[str, Field(min_length=1)] = Field(
        default="runs/latest", description="Folder for everything the job writes."
    )
    target_device: Literal["ANY", "CPU", "GPU", "NPU"] = Field(
        default="ANY", description="Device whose quantizer layout NNCF uses."
    )

    _notes: tuple[Note, ...] = PrivateAttr(default=())
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_sections_agree(self) -> Config:
        channels, mean = self.input_shape[0], self.model.mean
        if mean is not None and len(mean) != channels:
            msg = f"model.mean has {len(mean)} values but input_shape has {channels} channels"
            raise ConfigError(msg)
        bits = [self.quantize.weight_bits, self.quantize.first_last_bits or 8, *self.quantize.bit_overrides.values()]
        packing, most = self.export.packing, MOST_BITS[self.export.packing]
        if min(bits) > most:
            msg = (
                f"export.packing is '{packing}' but no weight has {most} bits or less; lower quantize.weight_bits or "
                "drop packing"
            )
            raise ConfigError(msg)
        return self

    @property
    def notes(self) -> tuple[Note, ...]:
        """What became of the parts of the file that were not taken as they stood; no part of equality."""
        return self._notes

    @property
    def origins(self) -> Mapping[str, str]:
        """Where each setting that is not a default was said: dotted name to JSON pointer or ``--set`` text."""
        return self._origins

    def with_history(self, origins: Mapping[str, str], notes: tuple[Note, ...]) -> Config:
        """The same config, remembering where its settings came from."""
        copy = self.model_copy()
        copy._origins = dict(origins)  # noqa: SLF001 - a copy of this very class
        copy._notes = notes  # noqa: SLF001
        return copy

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as JSON; ``load_config`` of it gives an equal config."""
        return self.model_dump(mode="json", by_alias=True)

    def __eq__(self, other: object) -> bool:
        return self.resolved() == other.resolved() if isinstance(other, Config) else NotImplemented

    def __hash__(self) -> int:
        return hash(json.dumps(self.resolved(), sort_keys=True))
