"""Imported by the server that forks the processes of ``kill_matrix``: what takes long to load is there before a run.

Nothing is computed here: a forked process inherits the state of PyTorch's threads, but not the threads.
"""

from __future__ import annotations

import torch

from dfq_plugin import pipeline
from dfq_plugin.quantization.extension import ensure_extension

torch.set_num_threads(1)
ensure_extension()
run = pipeline.run
