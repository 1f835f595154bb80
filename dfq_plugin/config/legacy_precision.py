"""The NNCF 2.x precision initializer: bits set by hand, or by a search that bit allocation stands in for."""

from __future__ import annotations

import re

from dfq_plugin.config.legacy_schema import PrecisionInitializer
from dfq_plugin.config.scopes import translate_scope
from dfq_plugin.config.statements import Statements

BUDGET = ("quantize", "allocation", "average_weight_bits")
SEARCHES = {"hawq": "HAWQ's search by Hessian traces", "autoq": "AutoQ's search by reinforcement learning"}
USUAL_RATIO = {"hawq": 1.5, "autoq": 0.15}  # the defaults of NNCF 2.x
USUAL_BITS = [2, 4, 8]


def map_precision(precision: PrecisionInitializer | None, at: str, to: Statements) -> None:
    """Translate ``initializer.precision``.

    Args:
        precision: the checked fields; None when the file has none.
        at: JSON pointer of the initializer in the file.
        to: takes the settings, notes and problems.
    """
    if precision is None:
        return
    if precision.type == "manual":
        _map_by_hand(precision, at, to)
    else:
        _map_search(precision, at, to)


def _map_by_hand(precision: PrecisionInitializer, at: str, to: Statements) -> None:
    to.note("mapped", f"{at}/type", "bits are set by hand, in quantize.bit_overrides")
    for index, (bits, scope) in enumerate(precision.bitwidth_per_scope or []):
        name, _, group = scope.rpartition("|") if re.search(r"\|(WEIGHT|OUTPUT|INPUT\d*)$", scope) else (scope, "", "")
        ending = f"|{group.rstrip('0123456789')}" if group else ""
        pointer = f"{at}/bitwidth_per_scope/{index}"
        to.map(("quantize", "bit_overrides", translate_scope(name) + ending), bits, pointer)
    for field in sorted(precision.model_fields_set - {"type", "bitwidth_per_scope"}):
        to.note("ignored", f"{at}/{field}", "belongs to the searches 'hawq' and 'autoq'; type 'manual' does not use it")


def _map_search(precision: PrecisionInitializer, at: str, to: Statements) -> None:
    """Let bit allocation do with synthetic images what the searches did with labelled ones."""
    message = (
        f"{SEARCHES[precision.type]} is replaced by quantize.allocation, which tries every layer at every width on "
        "synthetic images and chooses bits for the weights; activations keep theirs"
    )
    to.note("approximated", f"{at}/type", message)
    _map_ratio(precision, at, to)
    if precision.bits is not None:
        to.map(("quantize", "allocation", "widths"), precision.bits, f"{at}/bits")
    else:
        to.imply(("quantize", "allocation", "widths"), USUAL_BITS, f"{at} (default of NNCF 2.x)")
    if precision.num_data_points is not None:
        to.map(("quantize", "allocation", "num_images"), precision.num_data_points, f"{at}/num_data_points")
    if precision.bitwidth_per_scope is not None:
        to.note("ignored", f"{at}/bitwidth_per_scope", f"type {precision.type!r} does not use it; 'manual' does")
    used = {"type", "compression_ratio", "bits", "num_data_points", "bitwidth_per_scope"}
    for field in sorted(precision.model_fields_set - used):
        to.note("ignored", f"{at}/{field}", f"belongs to {SEARCHES[precision.type]}, which is not run")


def _map_ratio(precision: PrecisionInitializer, at: str, to: Statements) -> None:
    """The budget: HAWQ's ratio counts from 8 bits downwards, AutoQ's is a share of the size in float."""
    ratio = USUAL_RATIO[precision.type] if precision.compression_ratio is None else precision.compression_ratio
    pointer = f"{at}/compression_ratio"
    average = 0.0
    if ratio > 0:
        average = 8 / ratio if precision.type == "hawq" else 32 * ratio
    if not 2 <= average <= 8:
        meant = f"{ratio:g} of {precision.type!r} means {average:g} bits a weight on average"
        to.refuse(pointer, f"{meant}, and 2 to 8 can be had; say {'.'.join(BUDGET)} instead")
    elif precision.compression_ratio is None:
        to.imply(BUDGET, average, f"{at} (default of NNCF 2.x)")
    else:
        to.map(BUDGET, average, pointer)
        if precision.type == "hawq":
            message = (
                "the ratio was one of bits times multiplications, of weights and activations; here it is of weights"
            )
            to.note("approximated", pointer, message)
