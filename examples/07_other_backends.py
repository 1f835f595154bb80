"""07. The same images elsewhere: they calibrate an ONNX and an OpenVINO model through plain NNCF.

The images are made from the PyTorch network; what they calibrate are other copies of it. The bits are NNCF's own 8.
Run it with ``python examples/07_other_backends.py``; it needs OpenVINO (``pip install openvino``).
"""

from __future__ import annotations

import sys

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino
from digits_task import MEAN, SHAPE, STD, accuracy, load_data, train

import dfq_plugin as dfq
from dfq_plugin.config import ExportSettings
from dfq_plugin.export import export_float

SMOKE = "--smoke" in sys.argv


def main() -> None:
    """One set of images, two other backends."""
    train_images, test_images, train_labels, test_labels = load_data()
    teacher = train(train_images, train_labels, epochs=4 if SMOKE else 30)
    params = {"steps": 20 if SMOKE else 200, "learning_rate": 0.1}
    synthetic = dfq.generate(
        teacher, provider="zeroq", input_shape=SHAPE, num_samples=128, params=params, mean=MEAN, std=STD
    )
    export_float(teacher, SHAPE, "float.onnx", ExportSettings())
    images, labels = test_images.numpy(), test_labels.numpy()
    print(f"float {accuracy(teacher, test_images, test_labels):.2f} %")

    onnx_model = onnx.load("float.onnx")
    name = onnx_model.graph.input[0].name
    onnx_model = nncf.quantize(onnx_model, synthetic.to_nncf(batch_size=32, backend="onnx", input_name=name))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact on x86 without VNNI too
    session = onnxruntime.InferenceSession(onnx_model.SerializeToString(), options)
    print(f"ONNX, 8 bits {share(session.run(None, {name: images})[0], labels):.2f} %")

    openvino_model = openvino.Core().read_model("float.onnx")
    name = openvino_model.input(0).any_name
    dataset = synthetic.to_nncf(batch_size=32, backend="openvino", input_name=name)
    compiled = openvino.Core().compile_model(nncf.quantize(openvino_model, dataset), "CPU")
    print(f"OpenVINO, 8 bits {share(compiled(images)[0], labels):.2f} %")


def share(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percent of images given their label."""
    return 100 * float((logits.argmax(axis=1) == labels).mean())


if __name__ == "__main__":
    main()
