from __future__ import annotations

import errno
import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dfq_plugin import room
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher

SHAPE = (6, 3, 8, 8)
PROVIDERS: dict[str, dict[str, Any]] = {
    "noise": {},
    "fractal": {},
    "dead_leaves": {},
    "zeroq": {"steps": 2, "batch_size": 4},
    "gdfq": {"steps": 2, "batch_size": 4},
    "mixture": {"parts": [{"provider": "noise"}, {"provider": "fractal"}]},
}


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LARGE", 1)


def mapped(folder: Path) -> list[str]:
    """The files in a folder that this process has mapped into its memory."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


def test_small_sets_lie_in_memory(tmp_path: Path) -> None:
    made = room.room_for_images(SHAPE, tmp_path)
    assert made.shape == SHAPE
    assert made.dtype == torch.float32
    assert not mapped(tmp_path)


@pytest.mark.usefixtures("everything_is_large")
def test_large_sets_lie_in_a_file_without_a_name_that_goes_with_them(tmp_path: Path) -> None:
    made = room.room_for_images(SHAPE, tmp_path)
    values = torch.randn(SHAPE)
    made.copy_(values)
    assert torch.equal(made, values)
    assert len(mapped(tmp_path)) == 1
    assert not list(tmp_path.iterdir())
    del made
    gc.collect()
    assert not mapped(tmp_path)


@pytest.mark.usefixtures("everything_is_large")
def test_without_a_folder_they_lie_in_memory() -> None:
    assert room.room_for_images(SHAPE, None).shape == SHAPE


@pytest.mark.usefixtures("everything_is_large")
def test_full_disk_leaves_nothing_and_takes_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert room.room_for_images(SHAPE, tmp_path).shape == SHAPE
    assert not list(tmp_path.iterdir())
    assert not mapped(tmp_path)


@pytest.mark.parametrize("name", PROVIDERS)
def test_set_is_the_same_wherever_it_lies(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, provider = tiny_teacher(), build_provider(name, PROVIDERS[name])
    facts = read_facts(teacher, SHAPE[1:])
    expected = provider(teacher, facts, GenerationRequest(6, 0))
    monkeypatch.setattr(room, "LARGE", 1)
    found = provider(teacher, facts, GenerationRequest(6, 0, tmp_path))
    assert mapped(tmp_path)
    assert torch.equal(found.images, expected.images)
