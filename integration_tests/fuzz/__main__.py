"""The fuzzer: ``python -m integration_tests.fuzz TARGET [libFuzzer options]``; ``make fuzz`` runs every target.

New inputs that reach new code go to a folder beside the corpus, ``found/TARGET``, which is not kept; one that is a
finding is written to ``crash-*`` in the working directory: repair the reader, then add the input to the corpus.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import atheris

# Imported first, so that the fuzzer looks at our own code and not at every library.
import onnx  # noqa: F401
import onnxruntime  # noqa: F401
import torch  # noqa: F401

with atheris.instrument_imports(include=["dfq_plugin", "json5"]):
    from integration_tests.fuzz.targets import TARGETS

HERE = Path(__file__).parent


def main() -> None:
    """Fuzz one target until the options say to stop."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        msg = f"usage: python -m integration_tests.fuzz {'|'.join(TARGETS)} [-max_total_time=60 ...]"
        raise SystemExit(msg)
    name, *options = sys.argv[1:]
    logging.disable()
    found = HERE / "found" / name
    found.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], str(found), str(HERE / "corpus" / name), *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
