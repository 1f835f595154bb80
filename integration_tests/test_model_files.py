"""Large models as two files that belong together, and any model as a file that is whole or not there."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dfq_plugin.export import move_model, remove_model
from dfq_plugin.export.tracing import trace_network
from dfq_plugin.export.writing import data_files, model_size, write_model
from dfq_plugin.validation.runtime import open_session

SHAPE = (3, 8, 8)
IMAGES = torch.ones(2, *SHAPE)
LIMIT = 1000  # bytes; the network has four times as many


def network(seed: int = 0) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).eval()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return layers


def write(path: Path, seed: int = 0, limit: int = LIMIT) -> torch.Tensor:
    """Write the network of that seed; returns what it gives."""
    write_model(trace_network(network(seed), SHAPE, 21), path, limit=limit)
    with torch.no_grad():
        result: torch.Tensor = network(seed)(IMAGES)
    return result


def run(path: Path) -> torch.Tensor:
    return torch.from_numpy(open_session(path).run(None, {"images": IMAGES.numpy()})[0])


def names(folder: Path) -> list[str]:
    """What lies in a folder, the digests in the names of data files as "*"."""
    return sorted(re.sub(r"\.[0-9a-f]{16}\.data$", ".*.data", entry.name) for entry in folder.iterdir())


def test_small_model_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    expected = write(path, limit=10**6)
    assert names(tmp_path) == ["model.onnx"]
    assert model_size(path) == path.stat().st_size
    assert torch.allclose(run(path), expected, atol=1e-4)


def test_large_model_is_two_files_that_name_each_other(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.onnx"
    expected = write(path)
    assert names(path.parent) == ["model.onnx", "model.onnx.*.data"]
    (data,) = data_files(path)
    assert path.stat().st_size < 4000 < data.stat().st_size
    assert model_size(path) == sum(file.stat().st_size for file in path.parent.iterdir())
    assert torch.allclose(run(path), expected, atol=1e-4)
    proto = onnx.load(path, load_external_data=False)
    places = {
        entry.value for tensor in proto.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    assert places == {data.name}
    onnx.checker.check_model(str(path), full_check=True)


def test_number_of_images_stays_open_in_a_large_model(tmp_path: Path) -> None:
    write(tmp_path / "model.onnx")
    (entry,) = open_session(tmp_path / "model.onnx").get_inputs()
    assert not isinstance(entry.shape[0], int)


@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
def test_model_is_moved_with_its_data(large: bool, tmp_path: Path) -> None:
    source, target = tmp_path / ".candidate.onnx", tmp_path / "model.onnx"
    expected = write(source, limit=LIMIT if large else 10**6)
    move_model(source, target)
    assert names(tmp_path) == (["model.onnx", "model.onnx.*.data"] if large else ["model.onnx"])
    assert torch.allclose(run(target), expected, atol=1e-4)


@pytest.mark.parametrize("before", [True, False], ids=["large before", "small before"])
@pytest.mark.parametrize("after", [True, False], ids=["large after", "small after"])
def test_model_that_was_there_is_replaced_with_all_its_files(before: bool, after: bool, tmp_path: Path) -> None:
    source, target = tmp_path / ".candidate.onnx", tmp_path / "model.onnx"
    write(target, seed=1, limit=LIMIT if before else 10**6)
    expected = write(source, seed=2, limit=LIMIT if after else 10**6)
    move_model(source, target)
    assert names(tmp_path) == (["model.onnx", "model.onnx.*.data"] if after else ["model.onnx"])
    assert torch.allclose(run(target), expected, atol=1e-4)


def test_no_model_is_ever_seen_with_the_data_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.onnx"
    write(target, seed=1)
    outputs = [run(target)]
    rename = Path.replace

    def watch(self: Path, to: Path) -> Path:
        result = rename(self, to)
        outputs.append(run(target))
        return result

    monkeypatch.setattr(Path, "replace", watch)
    expected = write(target, seed=2)
    assert [torch.allclose(output, expected, atol=1e-4) for output in outputs] == [False, False, True]
    assert torch.equal(outputs[0], outputs[1])
    assert len(data_files(target)) == 1


def test_failure_leaves_both_files_of_the_older_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    expected = write(path, seed=1)

    def fail(*_args: object, **_settings: object) -> None:
        msg = "no room left"
        raise OSError(msg)

    monkeypatch.setattr(ir, "save", fail)
    with pytest.raises(OSError, match="no room left"):
        write(path, seed=2)
    assert names(tmp_path) == ["model.onnx", "model.onnx.*.data"]
    assert torch.allclose(run(path), expected, atol=1e-4)


def test_older_data_with_no_model_is_no_ones_and_goes_with_the_next_model(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    stray = tmp_path / f"model.onnx.{'0' * 16}.data"
    stray.write_bytes(b"of a process that was killed before it could rename its model")
    (tmp_path / "model.onnx.notes.data").write_text("of the user")
    write(path)
    assert not stray.exists()
    assert names(tmp_path) == ["model.onnx", "model.onnx.*.data", "model.onnx.notes.data"]


def test_model_is_removed_with_its_data(tmp_path: Path) -> None:
    write(tmp_path / "model.onnx")
    remove_model(tmp_path / "model.onnx")
    remove_model(tmp_path / "model.onnx")  # nothing left to remove is no error
    assert names(tmp_path) == []
