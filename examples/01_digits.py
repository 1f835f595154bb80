"""01. From a trained network and no data to a proven 4-bit ONNX file, on scikit-learn's digits.

The labelled digits train the float network and measure the results; nothing in between sees them. Run it with
``python examples/01_digits.py``; ``--smoke`` does less of everything.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import torch
from digits_task import MEAN, SHAPE, STD, accuracy, load_data, train

import dfq_plugin as dfq

SMOKE = "--smoke" in sys.argv
MODEL = Path("runs/01_digits/model.onnx")  # 06_onnxruntime_only.py runs it


def main() -> None:
    """Every stage in turn."""
    train_images, test_images, train_labels, test_labels = load_data()
    teacher = train(train_images, train_labels, epochs=4 if SMOKE else 30)

    synthetic = dfq.generate(
        teacher,
        provider="intraq",
        input_shape=SHAPE,
        num_samples=64 if SMOKE else 256,
        params={"steps": 20 if SMOKE else 200, "learning_rate": 0.1, "batch_size": 64},
        mean=MEAN,
        std=STD,
    )
    student = dfq.quantize(teacher, synthetic, weight_bits=4, activation_bits=4)
    dfq.finetune(teacher, student, synthetic, epochs=1 if SMOKE else 20, augment="none")
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    exported = dfq.export_onnx(student, MODEL, packing="int4")
    verdict = dfq.validate(MODEL, student, synthetic.images, parity_codes=100_000)

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact on x86 without VNNI too
    session = onnxruntime.InferenceSession(str(MODEL), options)
    (logits,) = session.run(None, {session.get_inputs()[0].name: test_images.numpy()})
    right = (torch.from_numpy(logits).argmax(dim=1) == test_labels).double().mean().item()
    print(f"float {accuracy(teacher, test_images, test_labels):.2f} %")
    print(f"file, 4 bits {100 * right:.2f} %, {exported.size_bytes:,} bytes")
    print(f"operators: {verdict.census.integer} integer, {verdict.census.float} float")
    print(f"codes compared: {verdict.parity.codes_compared:,}, different: {verdict.parity.mismatches}")


if __name__ == "__main__":
    main()
