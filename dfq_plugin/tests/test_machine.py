"""Folders and build tools of this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dfq_plugin import machine
from dfq_plugin.machine import (
    BuildTools,
    built_extension,
    dead_locks,
    extension_folder,
    extension_state,
    find_build_tools,
)

ALL_THERE = BuildTools(ninja="/bin/ninja", compiler="c++", python_header="/include/Python.h", nvcc="/bin/nvcc")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DFQ_EXTENSION_DIR", "DFQ_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "CXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)


class TestFolders:
    def test_own_variable_comes_first(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("DFQ_EXTENSION_DIR", str(tmp_path / "own"))
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "torch"))
        assert extension_folder().parent == tmp_path / "own"

    def test_torchs_folder_is_respected_but_not_shared(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        assert extension_folder().parent == tmp_path / "dfq_plugin"

    @pytest.mark.parametrize(
        ("system", "variable", "folder"),
        [
            ("linux", "XDG_CACHE_HOME", "chosen/dfq_plugin"),
            ("linux", None, ".cache/dfq_plugin"),
            ("darwin", None, "Library/Caches/dfq_plugin"),
            ("win32", "LOCALAPPDATA", "chosen/dfq_plugin"),
            ("win32", None, "AppData/Local/dfq_plugin"),
        ],
    )
    def test_user_cache_follows_the_system_when_no_variable_is_set(
        self, system: str, variable: str | None, folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            monkeypatch.delenv(name, raising=False)
        if variable:
            monkeypatch.setenv(variable, str(tmp_path / "chosen"))
        assert extension_folder().parent == tmp_path / folder / "nncf_extension"
        assert machine.set_cache_folder() == tmp_path / folder / "sets"

    def test_sets_go_where_their_variable_says(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("DFQ_CACHE_DIR", str(tmp_path))
        assert machine.set_cache_folder() == tmp_path

    def test_name_tells_versions_and_device_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert extension_folder("cpu") != extension_folder("cuda")
        before = extension_folder()
        monkeypatch.setattr(machine, "installed_version", {"torch": "9.9", "nncf": "8.8"}.get)
        assert extension_folder().name.startswith(f"9.9-8.8-{sys.implementation.cache_tag}-")
        assert extension_folder() != before

    def test_folder_is_absolute_when_the_variable_is_relative(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DFQ_EXTENSION_DIR", "here")
        assert extension_folder().parent == tmp_path / "here"


class TestBuiltExtension:
    def test_finds_the_library_that_the_note_names(self, tmp_path: Path) -> None:
        (tmp_path / "a.so").touch()
        (tmp_path / "built.json").write_text(json.dumps({"library": "a.so"}))
        assert built_extension(tmp_path) == tmp_path / "a.so"

    @pytest.mark.parametrize("note", [None, "", "[]", "{}", '{"library": 3}', '{"library": "gone.so"}'])
    def test_finds_nothing_when_the_build_is_not_vouched_for(self, note: str | None, tmp_path: Path) -> None:
        (tmp_path / "a.so").touch()
        if note is not None:
            (tmp_path / "built.json").write_text(note)
        assert built_extension(tmp_path) is None


class TestExtensionState:
    def note(self, folder: Path, **content: object) -> None:
        (folder / "building.json").write_text(json.dumps({"host": socket.gethostname(), **content}))

    def test_nothing_there_is_missing(self, tmp_path: Path) -> None:
        assert extension_state(tmp_path / "nowhere") == "missing"

    def test_vouched_for_is_built(self, tmp_path: Path) -> None:
        (tmp_path / "a.so").touch()
        (tmp_path / "built.json").write_text('{"library": "a.so"}')
        self.note(tmp_path, pid=-1)
        assert extension_state(tmp_path) == "built"

    def test_process_that_runs_is_building_and_one_that_is_gone_was_cut_off(self, tmp_path: Path) -> None:
        self.note(tmp_path, pid=os.getpid())
        assert extension_state(tmp_path) == "building"
        self.note(tmp_path, pid=2**30)
        assert extension_state(tmp_path) == "cut off"

    def test_process_on_another_machine_cannot_be_looked_for(self, tmp_path: Path) -> None:
        self.note(tmp_path, pid=2**30, host="elsewhere")
        assert extension_state(tmp_path) == "building"


class TestDeadLocks:
    @pytest.fixture
    def lock(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A lock as a killed build of plain NNCF leaves it, two minutes old."""
        monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
        lock = tmp_path / "nncf" / "quantized_functions_cpu" / "2.11" / "lock"
        lock.parent.mkdir(parents=True)
        lock.touch()
        os.utime(lock, (time.time() - 120, time.time() - 120))
        return lock

    def test_is_found(self, lock: Path) -> None:
        assert dead_locks() == [lock]

    def test_is_found_where_torch_builds_by_default(self, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
        monkeypatch.setattr(machine, "_torch_cache_folder", lambda: lock.parents[3])
        assert dead_locks() == [lock]

    def test_beside_a_finished_library_is_none(self, lock: Path) -> None:
        (lock.parent / "kernels.so").touch()
        assert dead_locks() == []

    def test_that_is_new_is_none(self, lock: Path) -> None:
        os.utime(lock)
        assert dead_locks() == []

    def test_where_a_compiler_works_is_none(self, lock: Path) -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], cwd=lock.parent, stdin=subprocess.PIPE) as compiler:
            assert dead_locks() == []
            compiler.communicate(b"\n")
        assert dead_locks() == [lock]

    def test_cannot_be_told_without_psutil(self, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "import_if_there", lambda _name: None)
        assert lock.exists()
        assert dead_locks() == []


class TestTools:
    def test_nothing_is_missing_when_all_is_there(self) -> None:
        assert ALL_THERE.missing("cpu") == ALL_THERE.missing("cuda") == []

    def test_each_missing_tool_is_named_with_its_remedy(self) -> None:
        ninja, compiler, headers, nvcc = BuildTools(None, None, None, None).missing("cuda")
        assert "pip install ninja" in ninja
        assert "c++" in compiler or "cl" in compiler
        assert "python3-dev" in headers
        assert "CUDA toolkit" in nvcc

    def test_nvcc_is_needed_for_cuda_only(self) -> None:
        assert len(BuildTools("n", "c", "p", None).missing("cpu")) == 0
        assert len(BuildTools("n", "c", "p", None).missing("cuda")) == 1

    def test_wrong_cxx_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler -O2")
        tools = find_build_tools()
        assert tools.compiler is None
        assert "CXX environment variable says 'no-such-compiler -O2'" in tools.missing()[0]

    def test_cxx_may_hold_options(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", f"{Path(sys.executable).as_posix()} -O2")
        assert find_build_tools().compiler == f"{Path(sys.executable).as_posix()} -O2"
        assert "CXX" not in find_build_tools().environment()

    def test_second_compiler_is_told_to_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(machine, "COMPILERS", ("no-such-compiler", "second"))
        which = shutil.which
        monkeypatch.setattr(
            shutil, "which", lambda name, **kw: "/bin/second" if name == "second" else which(name, **kw)
        )
        assert find_build_tools().environment()["CXX"] == "second"

    def test_ninja_beside_python_is_put_on_path(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        ninja = tmp_path / ("ninja.exe" if sys.platform == "win32" else "ninja")
        ninja.touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
        monkeypatch.setattr("sysconfig.get_path", lambda *_args, **_kw: str(tmp_path))
        tools = find_build_tools()
        assert tools.ninja == str(ninja)
        assert tools.environment()["PATH"] == f"{tmp_path}{os.pathsep}{tmp_path / 'elsewhere'}"

    def test_path_stays_when_ninja_is_on_it(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "ninja").touch(mode=0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert "PATH" not in find_build_tools().environment()
