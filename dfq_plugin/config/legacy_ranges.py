"""The NNCF 2.x range initializer: how many samples set the ranges, and by which statistic."""

from __future__ import annotations

from dfq_plugin.config.legacy_schema import RangeInitializer, ScopedRangeInitializer
from dfq_plugin.config.statements import Statements

ACTIVATION_RANGES = {
    "mixed_min_max": "mean_min_max",
    "min_max": "min_max",
    "mean_min_max": "mean_min_max",
    "percentile": "mean_percentile",
    "mean_percentile": "mean_percentile",
    "threesigma": "mean_no_outliers",
}
# The weights of a layer are one tensor, so every minimum and maximum over samples is the minimum and maximum.
EXACT_FOR_WEIGHTS = {"mixed_min_max", "min_max", "mean_min_max"}
APPROXIMATIONS = {
    "mixed_min_max": "minima and maxima are averaged over images for all activations",
    "percentile": "percentiles are taken image by image and averaged, not over the whole set",
    "threesigma": "the nearest is the average minimum and maximum without outliers (mean_no_outliers)",
}


def map_ranges(ranges: RangeInitializer | list[ScopedRangeInitializer] | None, at: str, to: Statements) -> None:
    """Translate ``initializer.range``, one object or a list of them.

    Args:
        ranges: the checked fields.
        at: JSON pointer of the initializer in the file.
        to: takes the settings, notes and problems.
    """
    if isinstance(ranges, RangeInitializer):
        _map_activations(ranges, at, to)
        # The type is chosen for the activations; weights follow unless quantize.weight_range says otherwise.
        _map_weights(ranges, at, to, outright=False)
        return
    for index, entry in enumerate(ranges or []):
        pointer = f"{at}/{index}"
        scoped = [name for name in ("target_scopes", "ignored_scopes") if getattr(entry, name)]
        for name in scoped:
            message = "ranges are chosen for all weights or all activations at once; delete the scopes or the entry"
            to.refuse(f"{pointer}/{name}", message)
        if scoped:
            continue
        if entry.target_quantizer_group is not None:
            to.note(
                "mapped", f"{pointer}/target_quantizer_group", f"its type is that of all {entry.target_quantizer_group}"
            )
        if entry.validate_scopes is not None:
            to.note("ignored", f"{pointer}/validate_scopes", "there are no scopes to validate")
        if entry.target_quantizer_group != "weights":
            _map_activations(entry, pointer, to)
        if entry.target_quantizer_group != "activations":
            _map_weights(entry, pointer, to, outright=entry.target_quantizer_group == "weights")
        if entry.target_quantizer_group == "weights" and entry.num_init_samples is not None:
            to.note("ignored", f"{pointer}/num_init_samples", "weights need no samples")


def _map_activations(ranges: RangeInitializer, at: str, to: Statements) -> None:
    if ranges.num_init_samples == 0:
        message = "0 samples would leave the ranges unset; synthetic images cost nothing, so give 256 or delete the key"
        to.refuse(f"{at}/num_init_samples", message)
    elif ranges.num_init_samples is not None:
        to.map(("quantize", "num_init_samples"), ranges.num_init_samples, f"{at}/num_init_samples")
    if ranges.type is not None:
        to.map(("quantize", "activation_range"), ACTIVATION_RANGES[ranges.type], f"{at}/type")
        if ranges.type in APPROXIMATIONS:
            to.note("approximated", f"{at}/type", APPROXIMATIONS[ranges.type])
    _map_percentiles(ranges, at, to)


def _map_percentiles(ranges: RangeInitializer, at: str, to: Statements) -> None:
    params = ranges.params
    if params is None or (params.min_percentile is None and params.max_percentile is None):
        return
    if ranges.type not in {"percentile", "mean_percentile"}:
        to.note("ignored", f"{at}/params", "only the types 'percentile' and 'mean_percentile' have parameters")
        return
    low = 0.1 if params.min_percentile is None else params.min_percentile  # the defaults of NNCF 2.x
    high = 99.9 if params.max_percentile is None else params.max_percentile
    to.say(("quantize", "percentiles"), [low, high], f"{at}/params")
    for name in sorted(params.model_fields_set):
        to.note("mapped", f"{at}/params/{name}", f"taken as quantize.percentiles = {[low, high]}")


def _map_weights(ranges: RangeInitializer, at: str, to: Statements, *, outright: bool) -> None:
    if ranges.type is None:
        return
    (to.say if outright else to.imply)(("quantize", "weight_range"), "min_max", f"{at}/type")
    if ranges.type in EXACT_FOR_WEIGHTS:
        to.note("mapped", f"{at}/type", "quantize.weight_range = 'min_max'")
    else:
        message = (
            f"weights are ranged by minimum and maximum, not by {ranges.type}; quantize.weight_range can say 'mse'"
        )
        to.note("approximated", f"{at}/type", message)
    if outright and ranges.params is not None:
        to.note("ignored", f"{at}/params", "weights are ranged by minimum and maximum")
