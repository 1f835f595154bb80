"""The settings of a job, one class a section, each field with its default, its bounds and what it does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from dfq_plugin.config.scopes import compile_scope, split_quantizer_scope
from dfq_plugin.errors import ConfigError

Bits = Annotated[int, Field(ge=2, le=8)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Scopes = tuple[Annotated[str, Field(min_length=1)], ...]
ActivationRange = Literal["auto", "min_max", "mean_min_max", "mean_percentile", "mean_no_outliers", "mse"]


class Settings(BaseModel):
    """Base of every section: frozen, finite numbers only, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


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


class IgnoredScopes(Settings):
    """Which operations stay in float."""

    names: Scopes = Field(default=(), description="Operation names as NNCF 3.x writes them: `layer1/0/conv1/conv2d/0`.")
    patterns: Scopes = Field(default=(), description="Regular expressions, matched from the start of the name.")
    types: Scopes = Field(default=(), description="Operation types, as in `conv2d`, `linear`, `adaptive_avg_pool2d`.")
    validate_scopes: bool = Field(default=True, description="Fail when an entry matches nothing.")

    @field_validator("patterns")
    @classmethod
    def _check_patterns(cls, patterns: Scopes) -> Scopes:
        for pattern in patterns:
            compile_scope(f"{{re}}{pattern}")
        return patterns

    def entries(self) -> tuple[str, ...]:
        """Names and patterns in the form that ``match_scopes`` takes."""
        return (*self.names, *(f"{{re}}^(?:{pattern})" for pattern in self.patterns))


class QuantizeSettings(Settings):
    """How the student is quantized."""

    weight_bits: Bits = Field(default=8, description="Bits of the weights.")
    activation_bits: Bits = Field(default=8, description="Bits of the activations.")
    first_last_bits: Bits | None = Field(
        default=8, description="Bits of the first and the last layer; null gives them the same as the rest."
    )
    residual_bits: Bits = Field(
        default=8, description="Bits of tensors that feed no multiply-accumulate, such as the inputs of an addition."
    )
    bit_overrides: dict[str, Bits] = Field(
        default={},
        description="Bits of single quantizers by operation name, module name or `{re}` pattern. A key may end in "
        "`|WEIGHT`, `|INPUT` (what the operation reads) or `|OUTPUT`.",
    )
    placement: Literal["deployable"] = Field(
        default="deployable",
        description="Where quantizers stand: everything that integer kernels can run is quantized.",
    )
    rounding: Literal["squant", "nearest"] = Field(
        default="squant",
        description="Round weights so that errors cancel within each kernel and channel, or to nearest.",
    )
    bias_correction: bool = Field(
        default=False, description="Shift biases by what quantization moves each layer's mean output on the images."
    )
    preset: Literal["performance", "mixed"] = Field(
        default="performance", description="Activations symmetric (`performance`) or asymmetric (`mixed`)."
    )
    overflow_fix: Literal["disable", "enable", "first_layer_only"] = Field(
        default="disable", description="Halve the 8-bit weight range, for processors without VNNI."
    )
    ignored_scopes: IgnoredScopes = Field(default=IgnoredScopes(), description="Which operations stay in float.")
    quantize_inputs: bool = Field(default=True, description="Quantize the network's input.")
    quantize_outputs: bool = Field(default=False, description="Quantize the network's output.")
    weight_range: Literal["auto", "min_max", "mse"] = Field(
        default="auto", description="How weight ranges are chosen; `auto` is `min_max` at 8 bits and `mse` below."
    )
    activation_range: ActivationRange = Field(
        default="auto",
        description="How activation ranges are chosen; `auto` is `mse`.",
    )
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        default=(0.1, 99.9), description="Lower and upper percentile, in percent, for `mean_percentile`."
    )
    num_init_samples: Count = Field(default=256, description="Number of synthetic images that set the ranges.")
    batch_size: Count = Field(default=32, description="Images a batch while the ranges are set.")

    @field_validator("bit_overrides")
    @classmethod
    def _check_scopes(cls, overrides: dict[str, int]) -> dict[str, int]:
        for key in overrides:
            scope, _ = split_quantizer_scope(key)
            compile_scope(scope)
        return overrides

    @field_validator("percentiles")
    @classmethod
    def _check_order(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if not percentiles[0] < percentiles[1]:
            msg = "the lower percentile must be below the upper one"
            raise ConfigError(msg)
        return percentiles


class FinetuneSettings(Settings):
    """How the student learns from the teacher on the synthetic images."""

    epochs: Annotated[int, Field(ge=0)] = Field(default=0, description="Passes over the images; 0 is no fine-tuning.")
    lr: Positive = Field(
        default=3e-3, description="Change of a weight tensor per step, as a fraction of its root mean square."
    )
    batch_size: Count = Field(default=32, description="Images a batch.")
    temperature: Positive = Field(default=4.0, description="Softening of the logits in the `kl` loss.")
    range_lr_multiplier: Annotated[float, Field(ge=0)] = Field(
        default=0.3, description="Learning rate of the quantizer ranges, as a multiple of `lr`; 0 keeps them fixed."
    )
    loss: Literal["kl", "mse"] = Field(
        default="kl", description="Distance between the student's and the teacher's logits."
    )
    loss_scale: Positive = Field(default=1.0, description="Factor on the distillation loss.")
    augment: bool = Field(default=True, description="Shift the images by up to a tenth and mirror half of them.")
    seed: Seed = Field(default=0, description="Seed of the order and the shifts of the images.")


class ExportSettings(Settings):
    """How the ONNX file is written."""

    packing: Literal["none", "int4"] = Field(
        default="none", description="Store weights of 4 bits or less two to a byte (`int4`)."
    )
    opset: Annotated[int, Field(ge=21)] = Field(default=21, description="ONNX operator set of the file.")


class ValidateSettings(Settings):
    """How the ONNX file is checked."""

    images: str = Field(
        default="none",
        pattern=r"^(none|folder:.+|safetensors:.+)$",
        description="Labelled images to measure accuracy on.",
        json_schema_extra={"allowed": "'folder:DIR', 'safetensors:FILE' or 'none'"},
    )
    held_out: Annotated[int, Field(ge=0)] = Field(
        default=32, description="Fresh synthetic images to measure agreement on when `images` is none; 0 makes none."
    )
    parity_codes: Count = Field(
        default=10_000_000, description="Number of integer codes to compare with the reference, as far as images last."
    )
    latency_runs: Annotated[int, Field(ge=0)] = Field(default=50, description="Timed runs; 0 measures no latency.")
    require_integer: bool = Field(default=True, description="Fail when a layer that was to be quantized runs in float.")


class Config(Settings):
    """A whole job, as one file says it."""

    model: ModelSettings = Field(description="Where the trained network comes from.")
    input_shape: tuple[Count, Count, Count] = Field(
        description="One image: channels, height, width.",
        json_schema_extra={"allowed": "[channels, height, width], each at least 1"},
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
        if self.export.packing == "int4" and min(bits) > 4:
            msg = (
                "export.packing is 'int4' but no weight has 4 bits or less; lower quantize.weight_bits or drop packing"
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
