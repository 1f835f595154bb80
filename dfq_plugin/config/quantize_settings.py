"""The settings of the stage ``quantize``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dfq_plugin.config.base import Bits, Count, Positive, Scopes, Seed, Settings
from dfq_plugin.config.scopes import compile_scope, split_quantizer_scope
from dfq_plugin.errors import ConfigError

ActivationRange = Literal["auto", "min_max", "mean_min_max", "mean_percentile", "mean_no_outliers", "mse", "batchnorm"]


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


class ReconstructionSettings(Settings):
    """How rounding and ranges are learned, block by block."""

    steps: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Steps of the optimiser for each block; 0 leaves weights to `rounding`."
    )
    batch_size: Count = Field(default=32, description="Images a step.")
    drop: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.5, description="Share of the activations that are left in float at each step, at random (QDrop)."
    )
    rounding_lr: Positive = Field(default=1e-2, description="Learning rate of the rounding, constant.")
    rounding_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="Weight of the term that drives roundings to a decision (AdaRound)."
    )
    step_lr: Positive = Field(
        default=3e-3, description="Change per step of the weights' quantization steps, as a fraction of them."
    )
    range_lr: Positive = Field(
        default=1e-2, description="Change per step of the activations' quantization steps, as a fraction of them."
    )
    seed: Seed = Field(default=0, description="Seed of the order of the images and of what is dropped.")


class AllocationSettings(Settings):
    """A budget within which each layer gets bits of its own; without one, all get what is asked for.

    Bits of the first and last layer, of tensors that no product reads and of overrides stay, and count.
    """

    average_weight_bits: Annotated[float, Field(ge=2, le=8)] | None = Field(
        default=None, description="Mean number of bits of a weight, over all weights."
    )
    giga_bit_operations: Positive | None = Field(
        default=None,
        description="Products for one image, each counted as the bits of one operand times those of the other, in 1e9; "
        "activations get bits of their own as well.",
    )
    widths: tuple[Bits, ...] = Field(default=(2, 3, 4, 5, 6, 8), min_length=1, description="Bits to choose from.")
    num_images: Count = Field(default=64, description="Synthetic images on which each choice is tried.")

    @model_validator(mode="after")
    def _check_one_budget(self) -> AllocationSettings:
        if self.average_weight_bits is not None and self.giga_bit_operations is not None:
            msg = "average_weight_bits and giga_bit_operations are two budgets; set one of them"
            raise ConfigError(msg)
        return self


class QuantizeSettings(Settings):
    """How the student is quantized."""

    weight_bits: Bits = Field(default=8, description="Bits of the weights.")
    activation_bits: Bits | None = Field(
        default=8, description="Bits of the activations; null keeps them in float, so that only weights are smaller."
    )
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
    bit_plan: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="The `student/bit_plan.json` of an earlier run, whose bits are given again; `bit_overrides` win.",
    )
    placement: Literal["deployable", "relu_only"] = Field(
        default="deployable",
        description="Where quantizers stand: everything that integer kernels can run is quantized, or, as in the "
        "papers, weights with a zero point and what leaves a ReLU, to re-run their tables; that cannot be exported.",
    )
    rounding: Literal["squant", "gptq", "nearest"] = Field(
        default="squant",
        description="Round weights so that errors cancel within each kernel and channel (`squant`), or on the images "
        "(`gptq`), or to nearest.",
    )
    bias_correction: Literal["auto", "batchnorm", "images", "none"] = Field(
        default="auto",
        description="Take back what quantization moves each layer's mean output by, as BatchNorm statistics say or the "
        "images show; `auto` is `batchnorm`, and `none` after reconstruction and GPTQ.",
    )
    equalization: bool = Field(
        default=False,
        description="Equalize the weight ranges of neighbouring layers first, and absorb high biases (DFQ).",
    )
    preset: Literal["performance", "mixed"] = Field(
        default="performance", description="Activations symmetric (`performance`) or asymmetric (`mixed`)."
    )
    overflow_fix: Literal["disable", "enable", "first_layer_only"] = Field(
        default="disable",
        description="Halve the 8-bit weight range, for processors without VNNI and sessions without exact sums.",
    )
    ignored_scopes: IgnoredScopes = Field(default=IgnoredScopes(), description="Which operations stay in float.")
    quantize_inputs: bool = Field(default=True, description="Quantize the network's input.")
    quantize_outputs: bool = Field(default=False, description="Quantize the network's output.")
    weight_range: Literal["auto", "min_max", "mse"] = Field(
        default="auto", description="How weight ranges are chosen; `auto` is `min_max` at 8 bits and `mse` below."
    )
    activation_range: ActivationRange = Field(
        default="auto",
        description="How activation ranges are chosen; `auto` is `mse`. `batchnorm` derives them from BatchNorm "
        "statistics and takes images only where these say nothing.",
    )
    percentiles: tuple[Annotated[float, Field(ge=0, le=100)], Annotated[float, Field(ge=0, le=100)]] = Field(
        default=(0.1, 99.9), description="Lower and upper percentile, in percent, for `mean_percentile`."
    )
    reconstruction: ReconstructionSettings = Field(
        default=ReconstructionSettings(), description="How rounding and ranges are learned, block by block."
    )
    allocation: AllocationSettings = Field(
        default=AllocationSettings(), description="A budget within which each layer gets bits of its own."
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

    @model_validator(mode="after")
    def _check_placement(self) -> QuantizeSettings:
        if self.placement == "relu_only":
            given = {
                "weight_range": self.weight_range == "mse",
                "overflow_fix": self.overflow_fix != "disable",
                "reconstruction.steps": self.reconstruction.steps > 0,
                "allocation": self.allocation.average_weight_bits or self.allocation.giga_bit_operations,
                "quantize_outputs": self.quantize_outputs,
            }
            if wrong := [name for name, set_otherwise in given.items() if set_otherwise]:
                msg = "placement 'relu_only' is the quantizer of the papers, which knows nothing of "
                msg += f"{', '.join(wrong)}; leave that out, or take placement 'deployable'"
                raise ConfigError(msg)
        return self

    @field_validator("percentiles")
    @classmethod
    def _check_order(cls, percentiles: tuple[float, float]) -> tuple[float, float]:
        if not percentiles[0] < percentiles[1]:
            msg = "the lower percentile must be below the upper one"
            raise ConfigError(msg)
        return percentiles
