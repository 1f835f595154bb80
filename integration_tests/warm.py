"""Imported by the server that forks the processes of ``kill_matrix``: what takes long to load is there before a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from dfq_plugin import export, pipeline
from dfq_plugin.config import ExportSettings
from dfq_plugin.quantization.extension import ensure_extension
from integration_tests.networks import SHAPE, sequential

torch.set_num_threads(1)  # a forked process would wait for ever for the threads of a pool, which are not forked
ensure_extension()
with tempfile.TemporaryDirectory() as scratch:
    export.export_float(sequential().eval(), SHAPE, Path(scratch) / "float.onnx", ExportSettings())
run = pipeline.run
