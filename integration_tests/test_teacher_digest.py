"""The digest of a teacher is the same in every process, or no synthetic set would ever be found again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dfq_plugin.teacher import digest_of
from dfq_plugin.testing import tiny_teacher

ROOT = Path(__file__).parent.parent
SCRIPT = """
from dfq_plugin.teacher import digest_of
from dfq_plugin.testing import tiny_teacher
print(digest_of(tiny_teacher()))
"""


def test_digest_is_the_same_in_another_process_with_another_hash_seed_and_threads() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "17", "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest_of(tiny_teacher())
