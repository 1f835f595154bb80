"""Checks of the integer reference against onnxruntime, on small graphs with steps and zero points that invite ties."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dfq_plugin.validation.parity import Parity, compare
from integration_tests.graphs import GraphBuilder

RANDOM = np.random.default_rng(5)
IMAGES = RANDOM.uniform(-4, 4, (8, 6, 9, 9)).astype(np.float32)
STEP, ZERO = 1 / 32, 117  # an odd zero point shows whether it is added before or after rounding

Make = Callable[[GraphBuilder, str], str]  # from the codes of the images to the tensor that the graph hands out


def check(make: Make, path: Path, images: Any = IMAGES, opset: int = 21) -> Parity:
    graph = GraphBuilder(*images.shape[1:])
    output = make(graph, graph.quantize("images", STEP, ZERO))
    parity = compare(graph.save(path / "graph.onnx", output, opset=opset), images, 10**9)
    assert parity.mismatches == 0, parity.worst
    assert parity.codes_compared > 0
    assert parity.tensors_taken == 0
    return parity


def weight(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.integers(-127, 128, shape)


def steps(count: int) -> np.ndarray[Any, Any]:
    return 2.0 ** RANDOM.integers(-9, -5, count)


def near_ties(count: int, step: float) -> Any:
    """Steps near simple parts of a whole, so that float32 errors decide ties."""
    return (step / RANDOM.choice([2, 4, 6, 10], count) * (1 + RANDOM.integers(-1, 2, count) * 2.0**-23)).astype(
        np.float32
    )
