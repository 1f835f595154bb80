"""Files are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from dfq_plugin.errors import InputError
from dfq_plugin.tensor_files import KINDS, read_tensors, write_tensors


def test_read_tensors_gives_back_what_was_written(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).t(), "b": torch.tensor([1, 2])}
    write_tensors(tmp_path / "deep" / "x.safetensors", tensors, {"who": "me"})
    found, metadata = read_tensors(tmp_path / "deep" / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert torch.equal(found["a"], tensors["a"])
    assert found["b"].dtype == torch.int64
    assert metadata == {"who": "me"}


def test_equal_content_gives_equal_files(tmp_path: Path) -> None:
    metadata = {name: "ä" * index for index, name in enumerate("hgfedcba")}
    for copy in range(5):
        write_tensors(tmp_path / f"{copy}.safetensors", {"b": torch.arange(3.0), "a": torch.ones(2)}, metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    tensors, found = read_tensors(tmp_path / "0.safetensors")
    assert found == metadata
    assert tensors["b"].tolist() == [0.0, 1.0, 2.0]
    assert tensors["a"].tolist() == [1.0, 1.0]


def test_library_reads_every_kind_and_shape_as_it_was(tmp_path: Path) -> None:
    tensors = {str(kind): torch.tensor([[0, 1], [1, 0]]).to(kind) for kind in KINDS}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "ä": torch.tensor([True])}
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = safetensors.torch.load((tmp_path / "x.safetensors").read_bytes())
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=name)


def test_write_tensors_takes_slices_of_one_tensor(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    write_tensors(tmp_path / "x.safetensors", {"head": whole[:3], "tail": whole[1:]})
    found, _ = read_tensors(tmp_path / "x.safetensors")
    assert found["tail"].tolist() == [1.0, 2.0, 3.0]


def test_write_tensors_keeps_the_old_file_and_no_rest_when_writing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.safetensors"
    write_tensors(file, {"a": torch.zeros(1)})

    def fail(self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt(self.name)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt, match=r"\.partial"):
        write_tensors(file, {"a": torch.ones(1)})
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    assert read_tensors(file)[0]["a"].item() == 0.0


def test_read_tensors_names_the_file_when_it_is_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    write_tensors(file, {"a": torch.zeros(100)})
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(InputError, match=r"x\.safetensors cannot be read as a safetensors file"):
        read_tensors(file)


def test_read_tensors_names_the_file_when_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*x\.safetensors"):
        read_tensors(tmp_path / "x.safetensors")
