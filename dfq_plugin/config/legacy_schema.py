"""The part of an NNCF 2.x config file that is about quantization: its fields and their types, and nothing else.

Fields without a value were not said; the defaults of NNCF 2.x are applied where the fields are translated.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

ONE, MANY = "<one>", "<many>"  # in <>, so that error messages can leave them out of the pointer


def _one_or_many(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return MANY if isinstance(value, list) else ONE


Scopes = Annotated[Annotated[str, Tag(ONE)] | Annotated[list[str], Tag(MANY)], Discriminator(_one_or_many)]
Mode = Literal["symmetric", "asymmetric"]
RangeType = Literal["mixed_min_max", "min_max", "mean_min_max", "threesigma", "percentile", "mean_percentile"]
Percent = Annotated[float, Field(ge=0, le=100)]


class Legacy(BaseModel):
    """Base of every NNCF 2.x object."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputInfo(Legacy):
    """One input of the network."""

    sample_size: list[Annotated[int, Field(ge=1)]]
    type: str | None = None
    filler: str | None = None
    keyword: str | None = None


class Constraints(Legacy):
    """Properties of quantizers."""

    mode: Mode | None = None
    bits: int | None = None
    signed: bool | None = None
    per_channel: bool | None = None


class WeightGroup(Constraints):
    """All weight quantizers."""

    ignored_scopes: Scopes | None = None
    target_scopes: Scopes | None = None
    validate_scopes: bool | None = None
    logarithm_scale: bool | None = None


class ActivationGroup(WeightGroup):
    """All activation quantizers."""

    unified_scale_ops: list[list[str]] | None = None


class RangeParams(Legacy):
    """Parameters of the percentile range types."""

    min_percentile: Percent | None = None
    max_percentile: Percent | None = None


class RangeInitializer(Legacy):
    """How ranges are initialized."""

    num_init_samples: int | None = None
    type: RangeType | None = None
    params: RangeParams | None = None


class ScopedRangeInitializer(RangeInitializer):
    """How the ranges of some quantizers are initialized."""

    target_scopes: Scopes | None = None
    ignored_scopes: Scopes | None = None
    validate_scopes: bool | None = None
    target_quantizer_group: Literal["weights", "activations"] | None = None


Ranges = Annotated[
    Annotated[RangeInitializer, Tag(ONE)] | Annotated[list[ScopedRangeInitializer], Tag(MANY)],
    Discriminator(_one_or_many),
]


class OverrideInitializer(Legacy):
    """The initializer of a scope override."""

    range: Ranges | None = None


class ScopeOverride(Constraints):
    """Properties of the quantizers of one scope."""

    initializer: OverrideInitializer | None = None


class ScopeOverrides(Legacy):
    """Properties of quantizers by scope."""

    weights: dict[str, ScopeOverride] = {}
    activations: dict[str, ScopeOverride] = {}


class BatchNormAdaptation(Legacy):
    """Re-estimation of BatchNorm statistics."""

    num_bn_adaptation_samples: int | None = None
    num_bn_forget_samples: int | None = None


class PrecisionInitializer(Legacy):
    """Mixed precision."""

    type: Literal["hawq", "autoq", "manual"]
    bits: list[int] | None = None
    num_data_points: int | None = None
    iter_number: int | None = None
    tolerance: float | None = None
    compression_ratio: float | None = None
    eval_subset_ratio: float | None = None
    warmup_iter_number: int | None = None
    traces_per_layer_path: str | None = None
    dump_init_precision_data: bool | None = None
    bitwidth_assignment_mode: Literal["strict", "liberal"] | None = None
    bitwidth_per_scope: list[tuple[int, str]] | None = None


class Initializer(Legacy):
    """What happens before training."""

    range: Ranges | None = None
    batchnorm_adaptation: BatchNormAdaptation | None = None
    precision: PrecisionInitializer | None = None


class StagedParams(Legacy):
    """The schedule of staged quantization."""

    batch_multiplier: float | None = None
    activations_quant_start_epoch: float | None = None
    weights_quant_start_epoch: float | None = None
    lr_poly_drop_start_epoch: float | None = None
    lr_poly_drop_duration_epochs: float | None = None
    disable_wd_start_epoch: float | None = None
    base_lr: float | None = None
    base_wd: float | None = None


class Quantization(Legacy):
    """The algorithm ``quantization``; ``mode``, ``bits`` and ``per_channel`` stand for both groups."""

    algorithm: Literal["quantization"]
    mode: Mode | None = None
    bits: int | None = None
    per_channel: bool | None = None
    preset: Literal["performance", "mixed"] | None = None
    quantize_inputs: bool | None = None
    quantize_outputs: bool | None = None
    overflow_fix: Literal["enable", "disable", "first_layer_only"] | None = None
    export_to_onnx_standard_ops: bool | None = None
    ignored_scopes: Scopes | None = None
    target_scopes: Scopes | None = None
    validate_scopes: bool | None = None
    weights: WeightGroup = WeightGroup()
    activations: ActivationGroup = ActivationGroup()
    scope_overrides: ScopeOverrides = ScopeOverrides()
    initializer: Initializer = Initializer()
    params: StagedParams = StagedParams()
    compression_lr_multiplier: Annotated[float, Field(ge=0)] | None = None


class KnowledgeDistillation(Legacy):
    """The algorithm ``knowledge_distillation``."""

    algorithm: Literal["knowledge_distillation"]
    type: Literal["mse", "softmax"]
    scale: float | None = None
    temperature: float | None = None
