"""The operators of random graphs that only move codes, or limit them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from integration_tests.random_graphs import INT64, Operator, RandomGraph, Tensor

MOVEMENTS: list[Operator] = []


def _movement(name: str, fits: Callable[[Tensor], bool] = lambda _: True) -> Callable[[Any], Any]:
    def register(make: Callable[[RandomGraph, Tensor], list[Tensor]]) -> Any:
        MOVEMENTS.append(Operator(name, fits, make))
        return make

    return register


def _numbers(net: RandomGraph, *values: int) -> str:
    return net.graph.constant(values, INT64)


def _is_map(tensor: Tensor) -> bool:
    return len(tensor.shape) == 3


def _axis(net: RandomGraph, source: Tensor) -> int:
    return net.integer(0, len(source.shape) - 1)


def _resized(shape: tuple[int, ...], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


@_movement("Reshape")
def reshape(net: RandomGraph, source: Tensor) -> list[Tensor]:
    count = math.prod(source.shape)
    divisor = net.choose([size for size in range(1, count + 1) if count % size == 0])
    shape = net.choose([(count,), (divisor, count // divisor), (1, divisor, count // divisor)])
    if net.chance(2):
        dims = _numbers(net, 0, *shape[:-1], -1)
    else:  # as the exporter of PyTorch writes a batch whose size is not fixed
        batch = net.graph.node("Gather", net.graph.node("Shape", "images"), _numbers(net, 0))
        dims = net.graph.node("Concat", batch, _numbers(net, *shape), axis=0)
    return [replace(source, name=net.graph.node("Reshape", source.name, dims), shape=shape)]


@_movement("Reshape by arithmetic", _is_map)
def reshape_by_arithmetic(net: RandomGraph, source: Tensor) -> list[Tensor]:
    """Two axes become one whose size is computed from the graph's own shapes."""
    sizes = net.graph.node("Shape", source.name)
    parts = [net.graph.node("Gather", sizes, _numbers(net, axis)) for axis in range(4)]
    product = net.graph.node("Mul", parts[2], parts[3])
    half = net.graph.node("Div", net.graph.node("Add", product, product), _numbers(net, 2))
    dims = net.graph.node("Concat", parts[0], parts[1], half, axis=0)
    shape = (source.shape[0], source.shape[1] * source.shape[2])
    return [replace(source, name=net.graph.node("Reshape", source.name, dims), shape=shape)]


@_movement("Transpose", lambda tensor: len(tensor.shape) > 1)
def transpose(net: RandomGraph, source: Tensor) -> list[Tensor]:
    left, order = list(range(len(source.shape))), []
    while left:
        order.append(left.pop(net.integer(0, len(left) - 1)))
    name = net.graph.node("Transpose", source.name, perm=[0, *(axis + 1 for axis in order)])
    return [replace(source, name=name, shape=tuple(source.shape[axis] for axis in order))]


@_movement("Slice")
def cut(net: RandomGraph, source: Tensor) -> list[Tensor]:
    axis = _axis(net, source)
    size = source.shape[axis]
    start, step = net.integer(0, size - 1), net.choose([1, 2])
    amounts = _numbers(net, start), _numbers(net, 2**31), _numbers(net, axis + 1), _numbers(net, step)
    shape = _resized(source.shape, axis, -(-(size - start) // step))
    return [replace(source, name=net.graph.node("Slice", source.name, *amounts), shape=shape)]


@_movement("Pad", _is_map)
def pad(net: RandomGraph, source: Tensor) -> list[Tensor]:
    amounts = [net.integer(0, min(2, size - 1)) for size in source.shape[1:] * 2]
    mode = net.choose(["constant", "constant", "reflect", "edge"])
    if mode == "constant" and net.chance(3):
        amounts[0] = -min(1, source.shape[1] - 1)
    inputs = [_numbers(net, 0, 0, *amounts[:2], 0, 0, *amounts[2:])]
    inputs += [net.graph.constant(source.zero, np.uint8)] if mode == "constant" else []
    shape = (source.shape[0], *(size + sum(amounts[axis::2]) for axis, size in enumerate(source.shape[1:])))
    return [replace(source, name=net.graph.node("Pad", source.name, *inputs, mode=mode), shape=shape, is_padded=True)]


@_movement("Split", lambda tensor: max(tensor.shape) > 1)
def split(net: RandomGraph, source: Tensor) -> list[Tensor]:
    axis = max(range(len(source.shape)), key=lambda index: source.shape[index])
    first = net.integer(1, source.shape[axis] - 1)
    sizes = [first, source.shape[axis] - first]
    names = net.graph.nodes_out("Split", 2, source.name, _numbers(net, *sizes), axis=axis + 1)
    return [
        replace(source, name=name, shape=_resized(source.shape, axis, size))
        for name, size in zip(names, sizes, strict=True)
    ]


@_movement("Gather")
def gather(net: RandomGraph, source: Tensor) -> list[Tensor]:
    axis = _axis(net, source)
    size = source.shape[axis]
    places = [net.integer(-size, size - 1) for _ in range(net.integer(1, size))]
    name = net.graph.node("Gather", source.name, _numbers(net, *places), axis=axis + 1)
    return [replace(source, name=name, shape=_resized(source.shape, axis, len(places)))]


@_movement("Expand", lambda tensor: 1 in tensor.shape)
def expand(net: RandomGraph, source: Tensor) -> list[Tensor]:
    shape = tuple(net.integer(1, 3) if size == 1 else size for size in source.shape)
    return [replace(source, name=net.graph.node("Expand", source.name, _numbers(net, 1, *shape)), shape=shape)]


@_movement("Tile")
def tile(net: RandomGraph, source: Tensor) -> list[Tensor]:
    repeats = [net.integer(1, 2) for _ in source.shape]
    name = net.graph.node("Tile", source.name, _numbers(net, 1, *repeats))
    shape = tuple(size * times for size, times in zip(source.shape, repeats, strict=True))
    return [replace(source, name=name, shape=shape)]


@_movement("DepthToSpace", lambda tensor: _is_map(tensor) and tensor.shape[0] % 4 == 0)
def depth_to_space(net: RandomGraph, source: Tensor) -> list[Tensor]:
    channels, height, width = source.shape
    name = net.graph.node("DepthToSpace", source.name, blocksize=2, mode=net.choose(["DCR", "CRD"]))
    return [replace(source, name=name, shape=(channels // 4, height * 2, width * 2))]


@_movement("SpaceToDepth", lambda tensor: _is_map(tensor) and not tensor.shape[1] % 2 and not tensor.shape[2] % 2)
def space_to_depth(net: RandomGraph, source: Tensor) -> list[Tensor]:
    channels, height, width = source.shape
    name = net.graph.node("SpaceToDepth", source.name, blocksize=2)
    return [replace(source, name=name, shape=(channels * 4, height // 2, width // 2))]


@_movement("Resize", _is_map)
def resize(net: RandomGraph, source: Tensor) -> list[Tensor]:
    """Nearest, as the exporter of PyTorch writes it; scales that no float holds exactly are written as sizes."""
    if net.chance(2):
        sizes = [net.integer(1, 2 * size) for size in source.shape[1:]]
        inputs = ["", "", _batch_and(net, source.shape[0], *sizes)]
    else:
        scales = [net.choose([part / 4 for part in range(1, 11) if part * size % 4 == 0]) for size in source.shape[1:]]
        sizes = [int(size * scale) for size, scale in zip(source.shape[1:], scales, strict=True)]
        inputs = ["", net.graph.constant([1, 1, *scales], np.float32)]
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    name = net.graph.node("Resize", source.name, *inputs, **attributes)
    return [replace(source, name=name, shape=(source.shape[0], *sizes))]


def _batch_and(net: RandomGraph, *sizes: int) -> str:
    batch = net.graph.node("Gather", net.graph.node("Shape", "images"), _numbers(net, 0))
    return net.graph.node("Concat", batch, _numbers(net, *sizes), axis=0)


@_movement("Unsqueeze and Squeeze")
def unsqueeze_and_squeeze(net: RandomGraph, source: Tensor) -> list[Tensor]:
    longer = net.graph.node("Unsqueeze", source.name, _numbers(net, 1))
    name = net.graph.node("Squeeze", longer, _numbers(net, 1))
    return [replace(source, name=name)]


@_movement("Concat of one grid")
def concatenate_codes(net: RandomGraph, source: Tensor) -> list[Tensor]:
    axis = _axis(net, source)
    name = net.graph.node("Concat", source.name, source.name, axis=axis + 1)
    return [replace(source, name=name, shape=_resized(source.shape, axis, 2 * source.shape[axis]))]


@_movement("Identity and Clip")
def identity_and_clip(net: RandomGraph, source: Tensor) -> list[Tensor]:
    bounds = (net.graph.constant(bound, np.uint8) for bound in (source.zero, source.top))
    return [replace(source, name=net.graph.node("Clip", net.graph.node("Identity", source.name), *bounds))]
