"""Memory that a set of images at 224 pixels takes while it is made and kept; ``performance.py`` starts it.

    python benchmarks/peak_memory.py 5120

One step of IntraQ with a network of two convolutions, 32 images at a time. What is told is the peak of anonymous
memory, in MB: pages that belong to a file the system can put to the disk at any time, these it cannot.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from pathlib import Path

import dfq_plugin as dfq
from dfq_plugin.testing import tiny_teacher

SIDE, BATCH = 224, 32
EVERY = 0.01  # seconds


class Watch(threading.Thread):
    """Looks at the anonymous memory of this process again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self._over = threading.Event()

    def run(self) -> None:
        """Look until it is over."""
        while not self._over.wait(EVERY):
            self.peak = max(self.peak, anonymous())

    def __enter__(self) -> Watch:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._over.set()
        self.join()


def anonymous() -> int:
    """Bytes of this process's memory that no file stands behind."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 0 if found is None else int(found[1]) * 1024


def main() -> None:
    """Make and keep a set, and print the peak."""
    count = int(sys.argv[1])
    network = tiny_teacher(size=SIDE)
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        os.environ["DFQ_CACHE_DIR"] = folder
        made = dfq.generate(
            network,
            provider="intraq",
            input_shape=(3, SIDE, SIDE),
            num_samples=count,
            params={"steps": 1, "batch_size": BATCH},
        )
    if len(made) != count:
        message = f"{len(made)} images instead of {count}"
        raise SystemExit(message)
    print(round(watch.peak / 1e6))


if __name__ == "__main__":
    main()
