"""Bit allocation: which quantizer gets how many bits, for a given size or a given amount of arithmetic.

The losses of single quantizers (``sensitivity.py``) are taken to add up. From the most bits everywhere, bits are taken
away where that costs least for what it saves, until the budget is met; what is left of the budget is then given back
where it helps most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from dfq_plugin.errors import ConfigError
from dfq_plugin.student import ProductLayer

Bits = Mapping[str, int]  # by quantizer
Losses = Mapping[str, Mapping[int, float]]  # by quantizer and number of bits
Cost = Callable[[Bits], float]

FLOAT_BITS = 32  # of an operand that has no quantizer


@dataclass(frozen=True)
class Allocation:
    """Which quantizer gets how many bits.

    Attributes:
        bits: by quantizer, those with given bits included.
        cost: what they cost, in the unit of the budget.
        budget: what they may cost.
        loss: sum of the losses of the quantizers whose bits were chosen.
    """

    bits: Mapping[str, int]
    cost: float
    budget: float
    loss: float


def allocate(losses: Losses, given: Bits, cost: Cost, budget: float) -> Allocation:
    """Choose bits within a budget.

    Args:
        losses: of each quantizer whose bits are to be chosen, at each number of bits it may have.
        given: bits of the other quantizers.
        cost: what the bits of all quantizers cost together; fewer bits never cost more.
        budget: what they may cost.

    Raises:
        ConfigError: the budget cannot be met.
    """
    falling = {name: _never_rising(options) for name, options in losses.items()}
    least = {**given, **{name: min(options) for name, options in falling.items()}}
    if cost(least) > budget:
        msg = f"The bits cost at least {cost(least):g}, over the budget of {budget:g}; raise it or allow fewer bits."
        raise ConfigError(msg)
    bits = {**given, **{name: max(options) for name, options in falling.items()}}
    while cost(bits) > budget:
        bits = min(_moves(bits, falling, up=False), key=lambda moved: _price(bits, moved, falling, cost))
    while affordable := [
        moved for moved in _moves(bits, falling, up=True) if _helps(bits, moved, falling, cost, budget)
    ]:
        bits = max(affordable, key=lambda moved: _price(bits, moved, falling, cost))
    return Allocation(bits, cost(bits), budget, _loss(bits, falling))


def _never_rising(options: Mapping[int, float]) -> dict[int, float]:
    """Losses over bits, in order; what more bits seem to lose against fewer is noise."""
    widths = sorted(options)
    return dict(zip(widths, accumulate((options[width] for width in widths), min), strict=True))


def _moves(bits: Bits, losses: Losses, *, up: bool) -> list[dict[str, int]]:
    """What can be had by changing one quantizer."""
    return [
        {**bits, name: width}
        for name, options in losses.items()
        for width in options
        if (width > bits[name] if up else width < bits[name])
    ]


def _loss(bits: Bits, losses: Losses) -> float:
    return sum(options[bits[name]] for name, options in losses.items())


def _price(here: Bits, there: Bits, losses: Losses, cost: Cost) -> float:
    """Loss for each unit of cost, which of the two is the better one whatever."""
    difference = cost(here) - cost(there)
    return (_loss(there, losses) - _loss(here, losses)) / difference if difference else float("inf")


def _helps(here: Bits, there: Bits, losses: Losses, cost: Cost, budget: float) -> bool:
    return cost(there) <= budget and _loss(there, losses) < _loss(here, losses)


def size_in_bits(weights: Mapping[str, int]) -> Cost:
    """Cost of storing the weights.

    Args:
        weights: how many each quantizer has.
    """
    return lambda bits: float(sum(count * bits[name] for name, count in weights.items()))


def bit_operations(layers: Sequence[ProductLayer], products: Mapping[str, int]) -> Cost:
    """Cost of computing one image: products, each counted as bits of one operand times bits of the other.

    Args:
        layers: the product layers.
        products: how many multiplications each of them does, by operator.
    """

    def total(bits: Bits) -> float:
        return float(
            sum(
                products[layer.operator]
                * bits.get(layer.weight_quantizer or "", FLOAT_BITS)
                * bits.get(layer.input_quantizer or "", FLOAT_BITS)
                for layer in layers
            )
        )

    return total
