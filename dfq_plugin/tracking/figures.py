"""The final figures of a run, as names and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dfq_plugin.report import Report

SECTIONS = (
    "accuracy",
    "agreement",
    "kl_nats",
    "logits_sqnr_db",
    "baselines",
    "census",
    "parity",
    "latency_ms",
    "size_bytes",
    "timings_s",
    "peak_memory_bytes",
)


def final_figures(report: Report) -> dict[str, float]:
    """Every number of these sections that was measured and is finite, such as ``accuracy.onnx``."""
    return {name: value for section in SECTIONS for name, value in _numbers(section, getattr(report, section))}


def _numbers(name: str, value: Any) -> list[tuple[str, float]]:  # noqa: ANN401 - any section
    if isinstance(value, Mapping):
        return [found for key, inner in value.items() if key != "by_type" for found in _numbers(f"{name}.{key}", inner)]
    if isinstance(value, int | float) and math.isfinite(value):
        return [(name, float(value))]
    return []
