"""The same request twice costs one generation, and a broken cache costs one more."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

from dfq_plugin.batch_store import BatchStore
from dfq_plugin.providers.base import GenerationRequest, Provider, request_key
from dfq_plugin.set_cache import generate_cached
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import ModelFacts, read_facts
from dfq_plugin.testing import tiny_teacher

REQUEST = GenerationRequest(num_samples=3, seed=0)
LOGGER = "nncf.dfq_plugin.synthesize"


class Counting(Provider):
    """Makes one image a batch, counts the batches that it makes, and can be killed before one of them."""

    name: ClassVar[str] = "counting"
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "nothing"
    made: ClassVar[list[int]]
    killed_at: ClassVar[int | None] = None

    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:  # noqa: ARG002
        store, batches = BatchStore(request.checkpoint_folder), []
        for index in range(request.num_samples):
            found = store.load(index)
            if found is None:
                if index == self.killed_at:
                    raise KeyboardInterrupt
                self.made.append(index)
                random = torch.Generator().manual_seed(request.seed * 1000 + index)
                found = {"images": torch.randn(1, *facts.input_shape, generator=random)}
                store.save(index, found)
            batches.append(found["images"])
        return SyntheticSet(torch.cat(batches), None, None, self.provenance(facts, request))


@pytest.fixture(autouse=True)
def _count_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "made", [], raising=False)


def generate(
    root: Path | None, *, cache: bool = True, request: GenerationRequest = REQUEST, teacher: nn.Module | None = None
) -> tuple[SyntheticSet, bool]:
    teacher = teacher or tiny_teacher()
    return generate_cached(Counting(), teacher, read_facts(teacher, (3, 8, 8)), request, cache=cache, root=root)


def cached_file(root: Path) -> Path:
    return root / f"{request_key(Counting(), read_facts(tiny_teacher(), (3, 8, 8)), REQUEST)}.safetensors"


def test_second_request_is_served_from_the_cache(tmp_path: Path) -> None:
    first, first_cached = generate(tmp_path)
    second, second_cached = generate(tmp_path)
    assert (first_cached, second_cached) == (False, True)
    assert Counting.made == [0, 1, 2]
    assert torch.equal(first.images, second.images)
    assert second.provenance == first.provenance


@pytest.mark.parametrize("request_", [GenerationRequest(2, 0), GenerationRequest(3, 1)], ids=["num_samples", "seed"])
def test_other_request_is_made(tmp_path: Path, request_: GenerationRequest) -> None:
    generate(tmp_path)
    assert not generate(tmp_path, request=request_)[1]


def test_other_teacher_is_made_for(tmp_path: Path) -> None:
    generate(tmp_path)
    assert not generate(tmp_path, teacher=tiny_teacher(num_classes=5))[1]


def test_nothing_is_read_or_kept_when_cache_is_off(tmp_path: Path) -> None:
    generate(tmp_path)
    assert not generate(tmp_path, cache=False)[1]
    assert Counting.made == [0, 1, 2] * 2
    assert not generate(tmp_path / "empty", cache=False)[1]
    assert not (tmp_path / "empty").exists()


def test_nothing_is_kept_for_a_provider_that_reads_outside_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Counting, "cacheable", False)
    generate(tmp_path)
    assert not generate(tmp_path)[1]
    assert list(tmp_path.iterdir()) == []


def test_killed_run_goes_on_where_it_stopped_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken, _ = generate(tmp_path / "unbroken")
    Counting.made.clear()
    monkeypatch.setattr(Counting, "killed_at", 2)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "broken")
    assert Counting.made == [0, 1]
    monkeypatch.setattr(Counting, "killed_at", None)
    resumed, cached = generate(tmp_path / "broken")
    assert Counting.made == [0, 1, 2]
    assert not cached
    assert torch.equal(resumed.images, unbroken.images)


def test_parts_are_removed_when_the_set_is_complete(tmp_path: Path) -> None:
    generate(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [cached_file(tmp_path)]


def test_parts_go_to_the_folder_that_the_request_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counting, "killed_at", 1)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "cache", request=GenerationRequest(3, 0, tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").rglob("*.safetensors")] == ["batch_000000.safetensors"]


@pytest.mark.parametrize("damage", ["cut_off", "other_kind", "other_shape"])
def test_broken_entry_is_made_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first, _ = generate(tmp_path)
    file = cached_file(tmp_path)
    if damage == "cut_off":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other_kind":
        file.write_text("hello")
    else:
        SyntheticSet(first.images[:2], None, None, first.provenance).save(file)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        second, cached = generate(tmp_path)
    assert not cached
    assert "in the cache is made again" in caplog.text
    assert torch.equal(first.images, second.images)
    assert generate(tmp_path)[1]


def test_set_is_given_when_it_cannot_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("where the folder should go")
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        made, cached = generate(tmp_path / "file" / "cache")
    assert len(made) == 3
    assert not cached
    assert "not kept in the cache" in caplog.text


def test_set_is_kept_in_the_folder_of_the_environment_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DFQ_CACHE_DIR", str(tmp_path))
    generate(None)
    assert cached_file(tmp_path).is_file()
