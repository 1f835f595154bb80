"""What the integration tests share: one cache of synthetic sets of their own, and students that are made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from dfq_plugin import export, quantization
from dfq_plugin.config import ExportSettings, QuantizeSettings
from dfq_plugin.quantization.extension import ensure_extension
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from integration_tests import networks


@dataclass(frozen=True)
class Made:
    """One network on its whole way: teacher, student, file."""

    teacher: nn.Module
    student: Student
    path: Path


Maker = Callable[..., Made]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFQ_CACHE_DIR", str(tmp_path_factory.mktemp("sets")))
        yield


@pytest.fixture(scope="session")
def kernels() -> Path:
    """NNCF's compiled kernels, built in their usual place when this machine has none yet."""
    return ensure_extension()


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, kernels: Path) -> Maker:  # noqa: ARG001 - built first
    """Quantize and export a network of ``networks.py``; the same request twice costs one run."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def quantize(name: str, **settings: Any) -> tuple[nn.Module, Student]:
        teacher = networks.NETWORKS[name]()
        full = QuantizeSettings.model_validate({"num_init_samples": 32, **settings})
        return teacher, quantization.quantize(teacher, calibration_set(), full)

    @cache
    def request(
        name: str,
        weight_bits: int = 8,
        activation_bits: int = 8,
        *,
        preset: str = "performance",
        packing: str = "none",
        first_last_bits: int | None = 8,
    ) -> Made:
        teacher, student = quantize(
            name,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            preset=preset,
            first_last_bits=first_last_bits,
        )
        path = folder / f"{name}_{weight_bits}_{activation_bits}_{preset}_{packing}_{first_last_bits}.onnx"
        export.export_onnx(student, path, ExportSettings.model_validate({"packing": packing}))
        return Made(teacher, student, path)

    return request


def calibration_set() -> SyntheticSet:
    """32 smooth patches, as a set that some provider made."""
    return SyntheticSet(networks.images(32, seed=2), None, None, describe_run("patches", {}, 2, "any"))


@pytest.fixture
def job(tmp_path: Path) -> dict[str, Any]:
    """A whole job on the smallest network, quick enough to run many times."""
    return {
        "model": {"source": "python:integration_tests.networks:sequential"},
        "input_shape": list(networks.SHAPE),
        "quantize": {"weight_bits": 4, "activation_bits": 4},
        "calibration": {"provider": "noise", "num_samples": 16},
        "validate": {"held_out": 8, "latency_runs": 2, "parity_codes": 10_000},
        "output_dir": str(tmp_path / "out"),
    }
