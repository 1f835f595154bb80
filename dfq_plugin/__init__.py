"""Data-free quantization as a plug-in for NNCF: from a trained network and no data to a proven integer ONNX file.

>>> import dfq_plugin as dfq
>>> synthetic = dfq.generate(model, provider="intraq", input_shape=(3, 224, 224), num_samples=256)  # doctest: +SKIP
>>> student = dfq.quantize(model, synthetic, weight_bits=8, activation_bits=8)  # doctest: +SKIP
>>> dfq.export_onnx(student, "model.onnx")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

# Usage data would be sent over the network by NNCF, and OpenVINO, which NNCF imports: they do without a package that
# cannot be imported. And by onnxruntime, which reads the variable when it is imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # what Python takes for "not to be had"
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from dfq_plugin.api import (
        export_onnx,
        finetune,
        generate,
        learning_source,
        list_providers,
        load_student,
        quantize,
        run,
        save_student,
        validate,
    )
    from dfq_plugin.batches import Batch, BatchSource, FixedBatches
    from dfq_plugin.config import FinetuneSettings, load_config
    from dfq_plugin.errors import (
        ConfigError,
        DFQError,
        ExportError,
        InputError,
        ProviderContractError,
        UnsupportedModelError,
        ValidationError,
    )
    from dfq_plugin.finetuning import FinetuneHooks
    from dfq_plugin.providers.base import GenerationRequest, Provider, cited
    from dfq_plugin.providers.registry import register_provider
    from dfq_plugin.student import Student
    from dfq_plugin.synthetic_set import SyntheticSet

__version__ = "0.1.0"

# Where each public name lives: torch and NNCF take seconds to import, so they are imported when first needed.
_HOMES = {
    "Batch": "batches",
    "BatchSource": "batches",
    "ConfigError": "errors",
    "DFQError": "errors",
    "ExportError": "errors",
    "FinetuneHooks": "finetuning",
    "FinetuneSettings": "config",
    "FixedBatches": "batches",
    "GenerationRequest": "providers.base",
    "InputError": "errors",
    "Provider": "providers.base",
    "ProviderContractError": "errors",
    "Student": "student",
    "SyntheticSet": "synthetic_set",
    "UnsupportedModelError": "errors",
    "ValidationError": "errors",
    "cited": "providers.base",
    "export_onnx": "api",
    "finetune": "api",
    "generate": "api",
    "learning_source": "api",
    "list_providers": "api",
    "load_config": "config",
    "load_student": "api",
    "quantize": "api",
    "register_provider": "providers.registry",
    "run": "api",
    "save_student": "api",
    "validate": "api",
}

__all__ = [
    "Batch",
    "BatchSource",
    "ConfigError",
    "DFQError",
    "ExportError",
    "FinetuneHooks",
    "FinetuneSettings",
    "FixedBatches",
    "GenerationRequest",
    "InputError",
    "Provider",
    "ProviderContractError",
    "Student",
    "SyntheticSet",
    "UnsupportedModelError",
    "ValidationError",
    "__version__",
    "cited",
    "export_onnx",
    "finetune",
    "generate",
    "learning_source",
    "list_providers",
    "load_config",
    "load_student",
    "quantize",
    "register_provider",
    "run",
    "save_student",
    "validate",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        msg = f"module 'dfq_plugin' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"dfq_plugin.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
