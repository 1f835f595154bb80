from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dfq_plugin import memory
from dfq_plugin.errors import MemoryLimitError
from dfq_plugin.memory import freed_memory_kept, give_back_freed_memory, is_out_of_memory, memory_explained

MEGABYTE = 2**20


@pytest.fixture(autouse=True)
def _forget_the_library() -> Iterator[None]:
    memory._of_c_library.cache_clear()
    yield
    memory._of_c_library.cache_clear()


def anonymous() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_freed_memory_goes_back_to_the_system() -> None:
    blocks = [torch.ones(MEGABYTE // 64) for _ in range(64 * 32)]  # 64 KB each, from the heap; 128 MB together
    pins = blocks[::64]  # what lies behind them keeps the library from giving anything back by itself
    before = anonymous()
    del blocks
    give_back_freed_memory()
    assert len(pins) == 32
    assert anonymous() < before - 64 * MEGABYTE


def test_freed_memory_stays_until_the_outermost_block_ends() -> None:
    """In a process of its own: what other tests have left in the heap would say where these tensors lie."""
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, again, given_back = (int(figure) / MEGABYTE for figure in done.stdout.split())
    assert first > 60
    assert again < 1
    assert given_back > 60


def use_memory_within_blocks() -> tuple[int, int, int]:
    """Bytes that stay behind after a tensor of 64 MB, after one of 48, and that go back when the outer block ends.

    The second is smaller, since what Python allocates in between may lie at an end of what the first has left.
    """

    def held_after_use(megabytes: int) -> int:
        before = anonymous()
        block = torch.ones(megabytes * MEGABYTE // 4)
        del block
        return anonymous() - before

    with freed_memory_kept():
        with freed_memory_kept():
            first = held_after_use(64)
        again = held_after_use(48)
        within = anonymous()
    return first, again, within - anonymous()


def test_thresholds_are_the_usual_ones_after_the_outermost_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, *tuple[int, ...]]] = []
    monkeypatch.setattr(memory, "_of_c_library", lambda name: lambda *values: asked.append((name, *values)))
    with pytest.raises(ValueError, match="on purpose"), freed_memory_kept(), freed_memory_kept():
        raise ValueError("on purpose")  # noqa: EM101
    raised, lowered = (
        [("mallopt", -3, 2**31 - 1), ("mallopt", -1, 2**31 - 1)],
        [("mallopt", -3, 2**25), ("mallopt", -1, 2**26)],
    )
    assert asked == [*raised, *lowered, ("malloc_trim", 0)]


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def has_none(_name: object) -> object:
        return object()

    monkeypatch.setattr(ctypes, "CDLL", has_none)
    assert memory._of_c_library("malloc_trim") is None
    give_back_freed_memory()
    with freed_memory_kept():
        pass


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate"), RuntimeError("std::bad_alloc")]
)
def test_running_out_is_told_with_the_stage_and_the_way_out(error: Exception) -> None:
    assert is_out_of_memory(error)
    message = r"stage 'synthesize'.*Lower calibration\.params\.batch_size"
    with pytest.raises(MemoryLimitError, match=message), memory_explained("synthesize"):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_explained("synthesize"):
        raise RuntimeError("shapes do not fit")  # noqa: EM101


if __name__ == "__main__":
    print(*use_memory_within_blocks())  # noqa: T201
