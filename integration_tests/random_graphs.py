"""Random small networks of integer operators, written as the exporter does, with steps that make ties frequent."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from integration_tests.graphs import GraphBuilder

T = TypeVar("T")
Draw = Callable[[int], int]  # a whole number below the given one
MOST_ENTRIES = 2000  # of one tensor of one image
INT64 = np.int64


@dataclass(frozen=True)
class Tensor:
    """Codes in a graph under construction.

    Attributes:
        name: of the tensor of codes.
        shape: of one image.
        step: as float32.
        zero: zero point.
        top: largest code.
        is_padded: whether a Pad stands somewhere in front.
    """

    name: str
    shape: tuple[int, ...]
    step: float
    zero: int
    top: int
    is_padded: bool = False

    @property
    def spread(self) -> float:
        """About how far values lie from zero."""
        return self.step * self.top / 4


@dataclass(frozen=True)
class Operator:
    """One kind of operator: which tensors it can read, and how to write it."""

    name: str
    fits: Callable[[Tensor], bool]
    make: Callable[[RandomGraph, Tensor], list[Tensor]]


class RandomGraph:
    """Grows a graph operator by operator from a stream of random whole numbers.

    Args:
        draw: the only source of choices.
        operators: what it may hold.
    """

    def __init__(self, draw: Draw, operators: Sequence[Operator]) -> None:
        self._draw = draw
        self._random = np.random.default_rng(draw(2**32))
        self.style = self.choose(["powers of two", "any", "near ties"])
        self.even = self.chance(3)
        self.operators: Counter[str] = Counter()
        self.float_types: set[str] = set()
        self.may_be_ambiguous = False
        shape = (self.integer(1, 8), self.integer(3, 12), self.integer(3, 12))
        self.graph = GraphBuilder(*shape)
        self.tensors = [self.quantize("images", shape, 1.0)]
        for _ in range(self.integer(2, 8)):
            self.grow(operators)

    def choose(self, options: Sequence[T]) -> T:
        return options[self._draw(len(options))]

    def integer(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + self._draw(high - low + 1)

    def chance(self, one_in: int) -> bool:
        return self._draw(one_in) == 0

    def images(self, count: int = 3) -> Any:
        return self._random.standard_normal((count, *self.graph.shape)).astype(np.float32)

    def save(self, path: Path) -> Path:
        """Write the file; what it hands out are class scores or a dense map, in float."""
        last = self.tensors[-1]
        end = self.choose(["dequantized", "gemm", "matmul"])
        if end == "dequantized":
            return self.graph.save(path, self.dequantize(last))
        count = math.prod(last.shape)
        flat = replace(last, name=self.reshape(last, [0, count]), shape=(count,))
        weight, steps = self.weight_codes((5, count)), self.weight_steps(5)
        if end == "matmul":
            weight_name = self.graph.weight(weight.T, steps, axis=1)
            return self.graph.save(path, self.graph.node("MatMul", self.dequantize(flat), weight_name))
        bias = self.graph.bias(self.integers(5, 99), flat.step, steps)
        inputs = self.dequantize(flat), self.graph.weight(weight, steps), bias
        return self.graph.save(path, self.graph.node("Gemm", *inputs, transB=1))

    def grow(self, operators: Sequence[Operator]) -> None:
        """Add one operator behind a tensor, mostly the newest."""
        source = self.choose(self.tensors) if self.chance(3) else self.tensors[-1]
        operator = self.choose([operator for operator in operators if operator.fits(source)])
        made = operator.make(self, source)
        self.operators[operator.name] += 1
        self.tensors += [tensor for tensor in made if 0 < math.prod(tensor.shape) <= MOST_ENTRIES]

    def quantize(self, value: str, shape: Sequence[int], spread: float, unit: float = 0.0) -> Tensor:
        """Give a float tensor codes of 2 to 8 bits; a Relu stands in front of some.

        Args:
            value: the float tensor.
            shape: of one image.
            spread: about how far values lie from zero.
            unit: what one unit of an integer sum is worth, for steps that make ties.
        """
        bits = self.choose([8, 8, 8, 7, 6, 5, 4, 3, 2])
        relu = self.chance(3)
        top = 2**bits - 1
        step = self.step_for(2 * spread * self.choose([0.5, 1, 2]) / (top + 1) * (1 if relu else 2), unit)
        zero = 0 if relu or self.chance(4) else 2 ** (bits - 1) if self.even else self.integer(0, top)
        if relu and value != "images":
            value = self.graph.node("Relu", value)
        low = zero if not relu and self.chance(8) else 0  # a Relu on codes whose zero point is not 0
        codes = self.graph.quantize(value, step, zero, low, top)
        return Tensor(codes, tuple(shape), step, zero, top)

    def step_for(self, wanted: float, unit: float = 0.0) -> float:
        """A float32 step of about the wanted size."""
        wanted = max(wanted, 1e-6, unit / 64)  # a global pool refuses to make its codes much finer
        if self.style == "powers of two":
            wanted = 2.0 ** round(math.log2(wanted))
        elif self.style == "near ties" and unit > 0:
            factor = max(1, round(wanted / unit))
            wanted = unit * (factor + factor % 2 if factor > 1 else self.choose([0.5, 1]))
        else:
            wanted *= 1 + self._random.uniform(0, 0.5)
        return float(np.float32(wanted))

    def dequantize(self, tensor: Tensor) -> str:
        return self.graph.dequantize(tensor.name, tensor.step, tensor.zero)

    def reshape(self, tensor: Tensor, dims: Sequence[int]) -> str:
        return self.graph.node("Reshape", tensor.name, self.graph.constant(dims, INT64))

    def integers(self, count: int, bound: int) -> Any:
        return self._random.integers(-bound, bound + 1, count)

    def weight_codes(self, shape: Sequence[int]) -> Any:
        top = 2 ** (self.choose([8, 8, 7, 6, 5, 4, 3, 2]) - 1) - 1
        return self._random.integers(-top - self._draw(2), top + 1, tuple(shape))

    def weight_steps(self, count: int) -> Any:
        """Steps per output channel, float32; a dead channel now and then."""
        if self.style == "powers of two":
            steps = 2.0 ** self._random.integers(-9, -5, count)
        elif self.style == "near ties":
            steps = self._random.uniform(0.002, 0.02) * 2.0 ** self._random.integers(-1, 2, count)
        else:
            steps = self._random.uniform(0.001, 0.02, count)
        return steps.astype(np.float32)

    def constant(self, shape: Sequence[int]) -> Tensor:
        """Codes that are the same for every image."""
        step, zero = self.step_for(2.0**-5), 128 if self.even else self.integer(0, 255)
        codes = self.graph.constant(self._random.integers(0, 256, tuple(shape)), np.uint8)
        return Tensor(codes, tuple(shape), step, zero, 255)
