"""Files are whole or not there, and an output folder that cannot be used is refused at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from dfq_plugin.errors import InputError
from dfq_plugin.files import make_output_folder, whole_file


def test_file_appears_under_its_name_only_when_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    with whole_file(target) as path:
        path.write_text("whole")
        assert path.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def write_half(target: Path) -> None:
    with whole_file(target) as path:
        path.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("before", [None, "older"])
def test_nothing_is_left_behind_when_the_block_fails(before: str | None, tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    if before is not None:
        target.write_text(before)
    with pytest.raises(KeyboardInterrupt):
        write_half(target)
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if before is None else ["file.txt"])
    assert before is None or target.read_text() == before


def test_block_that_writes_nothing_is_an_error_and_leaves_the_older_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    target.write_text("older")
    with pytest.raises(FileNotFoundError), whole_file(target):
        pass
    assert target.read_text() == "older"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with whole_file(target) as first, whole_file(target) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert target.read_text() == "first"  # the last to end
    assert list(tmp_path.iterdir()) == [target]


def test_output_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    folder = make_output_folder(str(tmp_path / "a" / "b"))
    assert folder == tmp_path / "a" / "b"
    assert not list(folder.iterdir())
    assert make_output_folder(folder) == folder  # again, without complaint


def test_output_folder_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("kept")
    make_output_folder(tmp_path)
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("model.onnx", "kept")]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_folder_that_cannot_be_made_is_named_with_the_way_out(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=rf"{tmp_path / place} cannot be written to \(.+\); choose another with --output"
    ):
        make_output_folder(tmp_path / place)


def test_folder_that_refuses_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_place: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(InputError, match=r"cannot be written to \(Permission denied\)"):
        make_output_folder(tmp_path)
    assert not list(tmp_path.iterdir())
