"""Sessions of onnxruntime, set up the same way everywhere, and the files they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from dfq_plugin.errors import ValidationError

OPTIONS = {
    "session.intra_op.allow_spinning": "0",
    "session.qdq_matmulnbits_accuracy_level": "1",  # its own choice quantizes activations that were left in float
}


def open_session(
    model: str | Path | bytes,
    *,
    threads: int | None = None,
    optimized_path: Path | None = None,
    folder: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Load a model at full optimisation on the CPU, as a deployment would.

    Args:
        model: a file, or a serialised model.
        threads: fixed number of threads; None leaves the choice to onnxruntime.
        optimized_path: where to write the graph that is really run; its weights go to a file beside it.
        folder: where the external data of a serialised model lies.

    Raises:
        ValidationError: onnxruntime refuses the model; its message is repeated.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    for key, value in OPTIONS.items():
        options.add_session_config_entry(key, value)
    if threads is not None:
        options.intra_op_num_threads = threads
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
        weights = f"{optimized_path.name}.data"
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", weights)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    source = str(model) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions derive straight from Exception, one class a status code
        name = "the model" if isinstance(model, bytes) else str(model)
        msg = f"onnxruntime cannot load {name}: {error}"
        raise ValidationError(msg) from error


def run(session: onnxruntime.InferenceSession, images: npt.NDArray[np.float32]) -> list[npt.NDArray[Any]]:
    """Every output for ``images``, (N, C, H, W).

    Raises:
        ValidationError: onnxruntime stops at a node; its message is repeated.
    """
    try:
        outputs: list[npt.NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: images})
    except Exception as error:  # of onnxruntime's own classes, as when a model is loaded
        msg = f"onnxruntime loads the model but cannot run it: {error}"
        raise ValidationError(msg) from error
    return outputs


def size_on_disk(path: str | Path) -> int:
    """Bytes of a file, and of the files beside it that hold its weights."""
    path = Path(path)
    tensors = load_proto(path).graph.initializer
    beside = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return sum(file.stat().st_size for file in {path, *(path.parent / name for name in beside)})


def load_proto(path: str | Path) -> onnx.ModelProto:
    """The model in a file; what it keeps in files beside it stays there, so that its size does not matter."""
    return onnx.load(str(path), load_external_data=False)
