"""06. Deployment: onnxruntime and numpy are all that a finished file needs.

It runs the file that ``01_digits.py`` leaves behind on the digits that were held out there; scikit-learn brings the
digits, no more. Run ``python examples/01_digits.py`` and then ``python examples/06_onnxruntime_only.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

MODEL = Path("runs/01_digits/model.onnx")
MEAN, STD = 0.3, 0.376  # what the network was trained with: the preprocessing is not in the file


def main() -> None:
    """Load, run, count."""
    if not MODEL.exists():
        sys.exit(f"{MODEL} is not there; run 01_digits.py first.")
    digits = load_digits()
    _, pixels, _, labels = train_test_split(
        digits.images / 16.0, digits.target, test_size=450, random_state=0, stratify=digits.target
    )
    images = ((pixels[:, None] - MEAN) / STD).astype(np.float32)  # (N, 1, 8, 8)

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")  # exact on x86 without VNNI too
    session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    print(f"input {entry.name}: {entry.type}, {entry.shape}")
    (logits,) = session.run(None, {entry.name: images})
    print(f"file, 4 bits {100 * (logits.argmax(axis=1) == labels).mean():.2f} %")
    others = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "nncf", "onnx", "dfq_plugin"})
    print("other packages in use:", ", ".join(others) or "none")


if __name__ == "__main__":
    main()
