"""Files are whole or not there, and an output folder that cannot be used is refused at once."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from pathlib import Path

import pytest

from dfq_plugin.errors import InputError, OutputError
from dfq_plugin.files import LOCK, MAX_JSON_BYTES, make_output_folder, output_folder, read_json_object, whole_file


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


class TestOutputFolder:
    def test_is_ones_own_while_it_is_used(self, tmp_path: Path) -> None:
        with output_folder(tmp_path / "out") as folder:
            assert folder == tmp_path / "out"
            with (
                pytest.raises(InputError, match=rf"{folder} is in use by process {os.getpid()} on .*--output"),
                output_folder(folder),
            ):
                pass
        assert list(folder.iterdir()) == []
        with output_folder(folder):
            pass

    def test_is_free_when_the_process_that_had_it_is_dead(self, tmp_path: Path) -> None:
        (tmp_path / LOCK).write_text('{"pid": 1, "host": "elsewhere", "started": "long ago"}')
        with output_folder(tmp_path):
            pass
        assert list(tmp_path.iterdir()) == []

    def test_loses_the_drafts_of_killed_processes_and_nothing_else(self, tmp_path: Path) -> None:
        drafts = [
            tmp_path / ".model.onnx.12.0123abcd.partial",
            tmp_path / "student" / ".s.safetensors.7.00ff00ff.partial",
        ]
        for draft in drafts:
            draft.mkdir(parents=True)
            (draft / "weights.data").write_text("half")
        (tmp_path / ".synthetic.safetensors.12.0123abcd.partial").write_text("half")
        kept = [tmp_path / "model.onnx", tmp_path / ".download.partial", tmp_path / "student" / "student.safetensors"]
        for file in kept:
            file.write_text("whole")
        with output_folder(tmp_path):
            assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*kept, tmp_path / LOCK}

    @pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need rights there")
    def test_does_not_follow_links_when_it_removes_drafts(self, tmp_path: Path) -> None:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        precious = elsewhere / ".a.1.00000000.partial"
        precious.write_text("of somebody else")
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "link").symlink_to(elsewhere)
        (folder / ".b.1.00000000.partial").symlink_to(elsewhere)
        with output_folder(folder):
            assert {entry.name for entry in folder.iterdir()} == {"link", LOCK}
        assert precious.exists()


def test_full_disk_is_one_message_that_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file.txt"
    target.write_text("older")

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputError, match=r"file\.txt cannot be written \(No space left on device\); what was there"):
        write(target, "newer")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file.txt", "older")]


def write(target: Path, text: str) -> None:
    with whole_file(target) as path:
        path.write_text(text)


class TestReadJsonObject:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "cannot be read as JSON"),
            ("[1]", "holds no JSON object"),
            ('{"a":' * 100_000, "cannot be read as JSON"),
            ("\udcff", "cannot be read as JSON"),
        ],
        ids=["cut off", "list", "deep", "not utf-8"],
    )
    def test_refuses_what_is_none(self, content: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        path.write_bytes(content.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=rf"report\.json {message}"):
            read_json_object(path)

    def test_refuses_what_is_too_large(self, tmp_path: Path) -> None:
        with (tmp_path / "report.json").open("wb") as file:
            file.truncate(MAX_JSON_BYTES + 1)  # takes no room on the disk
        with pytest.raises(InputError, match="larger than 64 MiB"):
            read_json_object(tmp_path / "report.json")

    def test_names_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"There is no file .*report\.json"):
            read_json_object(tmp_path / "report.json")


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
