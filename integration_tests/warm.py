"""Imported by the server that forks the processes of ``kill_matrix``: what takes long to load is there before a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from dfq_plugin import export, pipeline
from dfq_plugin.config import ExportSettings
from dfq_plugin.quantization.extension import ensure_extension
from integration_tests.networks import SHAPE, sequential

ensure_extension()
with tempfile.TemporaryDirectory() as scratch:
    export.export_float(sequential().eval(), SHAPE, Path(scratch) / "float.onnx", ExportSettings())
run = pipeline.run
