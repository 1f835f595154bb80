"""The settings of the stage ``quantize``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from dfq_plugin.config.base import Bits, Count, Scopes, Settings
from dfq_plugin.config.scopes import compile_scope, split_quantizer_scope
from dfq_plugin.errors import ConfigError

ActivationRange = Literal["auto", "min_max", "mean_min_max", "mean_percentile", "mean_no_outliers", "mse"]


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
