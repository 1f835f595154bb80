"""From a budget in the settings to the bit plan: losses are measured, bits chosen, the plan rewritten."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from dfq_plugin.config.quantize_settings import AllocationSettings
from dfq_plugin.quantization.allocation import Bits, Cost, Losses, allocate, bit_operations, size_in_bits
from dfq_plugin.quantization.nncf_graph import CONVOLUTIONS, OperatorGraph
from dfq_plugin.quantization.sensitivity import measure_losses, measure_plans
from dfq_plugin.spreading import spread_evenly
from dfq_plugin.student import BitAssignment, ProductLayer, Student

REQUESTED, WITHIN_BUDGET = "requested", "budget"
GIGA = 1e9

logger = logging.getLogger("nncf.dfq_plugin.quantize")


@torch.no_grad()
def choose_bits(
    student: Student, graph: OperatorGraph, plan: Sequence[BitAssignment], images: Tensor, settings: AllocationSettings
) -> list[BitAssignment]:
    """Give each layer bits of its own within a budget; without a budget the plan stays as it is.

    Args:
        student: its weights still in float.
        graph: the network's operators.
        plan: what was asked for; only what is plainly requested, without a rule or an override, is free.
        images: (N, C, H, W), some of which are used.
        settings: the budget.

    Raises:
        ConfigError: the budget cannot be met.
    """
    weights = {layer.weight_quantizer: student.network.get_parameter(layer.weight) for layer in student.layers}
    if settings.average_weight_bits is not None:
        counts = {entry.name: weights[entry.name].numel() for entry in plan if entry.kind == "weight"}
        cost, budget, kinds = size_in_bits(counts), settings.average_weight_bits * sum(counts.values()), {"weight"}
    elif settings.giga_bit_operations is not None:
        products = {layer.operator: _products(student, graph, layer) for layer in student.layers}
        cost, budget = bit_operations(student.layers, products), settings.giga_bit_operations * GIGA
        kinds = {"weight", "activation"}
    else:
        return list(plan)
    free = [entry.name for entry in plan if entry.kind in kinds and entry.reason == REQUESTED]
    sites = [site for site in student.sites if site.name in free]
    tried = images[spread_evenly(len(images), settings.num_images)]
    losses = measure_losses(student, sites, settings.widths, tried)
    given = {entry.name: entry.applied for entry in plan if entry.name not in losses}
    plans = [allocate(losses, given, cost, budget).bits, *_uniform(losses, given, cost, budget)]
    # The losses of single quantizers need not add up, so that the choice has to prove itself.
    together = measure_plans(student, sites, plans, tried)
    bits = plans[together.index(min(together))]
    logger.info("Bits within the budget: %.3g of %.3g used, error %.3g", cost(bits), budget, min(together))
    return [
        replace(entry, applied=bits[entry.name], reason=WITHIN_BUDGET) if entry.name in losses else entry
        for entry in plan
    ]


def _uniform(losses: Losses, given: Bits, cost: Cost, budget: float) -> list[Bits]:
    """The most bits that all quantizers can have alike, as the one other plan; none when the least are too many."""
    widths = sorted({width for options in losses.values() for width in options}, reverse=True)
    plans: list[Bits] = [{**given, **dict.fromkeys(losses, width)} for width in widths]
    return [bits for bits in plans if cost(bits) <= budget][:1]


def _products(student: Student, graph: OperatorGraph, layer: ProductLayer) -> int:
    """Multiplications of one layer for one image: every weight once for each place of the output."""
    (node,) = (node for node in graph.operators() if graph.own_name(node.node_name) == layer.operator)
    shape = graph.output_shape(node)
    channels = 1 if node.node_type in CONVOLUTIONS else len(shape) - 1
    places = prod(size for axis, size in enumerate(shape) if axis not in (0, channels))
    return places * student.network.get_parameter(layer.weight).numel()
