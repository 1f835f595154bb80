"""Codes, weights and grids for tests, written short."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfq_plugin.validation.arithmetic import Codes, Grid

ONE = np.float32(1.0)


def grid(step: float = 1.0, zero: int = 0) -> Grid:
    return Grid(np.float32(step), zero)


def codes(values: Any, step: float = 1.0, zero: int = 0) -> Codes:
    return Codes(np.array(values, dtype=np.uint8), np.array(step, dtype=np.float32), np.array(zero, dtype=np.uint8))


def kernel(values: Any, steps: Any = 1.0) -> Codes:
    return Codes(np.array(values, dtype=np.int8), np.array(steps, dtype=np.float32), np.array(0, dtype=np.int8))


def bias(values: list[int], step: Any = 1.0) -> Codes:
    return Codes(np.array(values, dtype=np.int32), np.array(step, dtype=np.float32), np.array(0, dtype=np.int32))
