"""Finished batches survive, broken ones are made again, and a full disk does not stop the work."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from dfq_plugin.batch_store import BatchStore

LOGGER = "nncf.dfq_plugin.synthesize"


def test_load_gives_back_what_another_store_saved(tmp_path: Path) -> None:
    BatchStore(tmp_path / "parts").save(3, {"images": torch.ones(2, 1), "labels": torch.tensor([4, 5])})
    found = BatchStore(tmp_path / "parts").load(3)
    assert found is not None
    assert torch.equal(found["images"], torch.ones(2, 1))
    assert found["labels"].tolist() == [4, 5]


def test_load_gives_none_when_batch_was_not_saved(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    store.save(0, {"images": torch.ones(1)})
    assert store.load(1) is None


def test_load_gives_none_and_warns_when_file_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = BatchStore(tmp_path)
    store.save(7, {"images": torch.ones(100)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-4])
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        assert store.load(7) is None
    assert "Batch 7 is made again" in caplog.text


def test_save_replaces_a_broken_file(tmp_path: Path) -> None:
    store = BatchStore(tmp_path)
    store.save(0, {"a": torch.zeros(1)})
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"")
    store.save(0, {"a": torch.ones(1)})
    found = store.load(0)
    assert found is not None
    assert found["a"].item() == 1.0


def test_store_keeps_nothing_when_folder_is_none() -> None:
    store = BatchStore(None)
    store.save(0, {"a": torch.zeros(1)})
    assert store.load(0) is None


def test_save_warns_once_and_goes_on_when_disk_refuses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "parts").write_text("a file stands where the folder should go")
    store = BatchStore(tmp_path / "parts")
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        store.save(0, {"a": torch.zeros(1)})
        store.save(1, {"a": torch.zeros(1)})
    assert [record.args[0] for record in caplog.records if record.args] == [0]  # type: ignore[index]
