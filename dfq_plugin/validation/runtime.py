"""Sessions of onnxruntime, set up the same way everywhere, and the files they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from dfq_plugin.errors import InputError, ValidationError
from dfq_plugin.hardware import EXACT_SUMS
from dfq_plugin.validation.outside_data import outside_files

onnxruntime.disable_telemetry_events()  # for the case that it was imported before this package

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
    exact_sums: bool = True,
) -> onnxruntime.InferenceSession:
    """Load a model at full optimisation on the CPU, as a deployment would.

    Args:
        model: a file, or a serialised model.
        threads: fixed number of threads; None leaves the choice to onnxruntime.
        optimized_path: where to write the graph that is really run; its weights go to a file beside it.
        folder: where the external data of a serialised model lies.
        exact_sums: set ``EXACT_SUMS``, but for models that onnxruntime only loads without it: 1.32 cannot copy the
            weights of a layer that runs twice.

    Raises:
        ValidationError: onnxruntime refuses the model; its message is repeated.
    """
    options = _options(threads, optimized_path, folder)
    if exact_sums:
        options.add_session_config_entry(EXACT_SUMS, "1")
    try:
        return _load(model, options)
    except ValidationError:
        if not exact_sums:
            raise
        return _load(model, _options(threads, optimized_path, folder))


def _options(threads: int | None, optimized_path: Path | None, folder: Path | None) -> onnxruntime.SessionOptions:
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
    return options


def _load(model: str | Path | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
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
    return sum(file.stat().st_size for file in {path, *outside_files(load_proto(path), path)})


def load_proto(path: str | Path) -> onnx.ModelProto:
    """The model in a file; what it keeps in files beside it stays there, so that its size does not matter.

    Raises:
        InputError: it is missing or no ONNX file, or names a file for its weights that is not beside it.
    """
    path = Path(path)
    try:
        model = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        msg = f"There is no model {path}."
        raise InputError(msg) from error
    except (DecodeError, OSError, ValueError) as error:
        msg = f"{path} cannot be read as an ONNX model ({error}); it may be cut off or of another format."
        raise InputError(msg) from error
    outside_files(model, path)
    return model
