"""Who builds NNCF's kernels, who waits, who loads; nothing is compiled here."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dfq_plugin.errors import DFQError
from dfq_plugin.machine import BuildTools
from dfq_plugin.quantization import extension
from dfq_plugin.quantization.extension import ensure_extension, obtain

TOOLS = BuildTools(ninja="/bin/ninja", compiler="c++", python_header="Python.h", nvcc=None)


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extension, "find_build_tools", lambda: TOOLS)
    monkeypatch.setattr(extension, "QUIET_WAIT_S", 0.05)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is logged at INFO and above."""
    said: list[str] = []
    listener = logging.Handler(logging.INFO)
    monkeypatch.setattr(listener, "emit", lambda record: said.append(record.getMessage()))
    monkeypatch.setattr(extension.logger, "handlers", [listener])
    extension.logger.setLevel(logging.INFO)
    yield said
    extension.logger.setLevel(logging.NOTSET)


class Builder:
    """Stands in for NNCF: notes what it is asked for."""

    def __init__(self, *, loads: bool = True) -> None:
        self.builds: list[Path] = []
        self.loads: list[Path] = []
        self.environment: dict[str, str] = {}
        self.load_works = loads

    def build(self, folder: Path) -> Path:
        self.builds.append(folder)
        self.environment = dict(os.environ)
        library = folder / "nncf" / "kernels.so"
        library.parent.mkdir(parents=True)
        library.touch()
        return library

    def load(self, library: Path) -> None:
        self.loads.append(library)
        if not self.load_works:
            msg = "undefined symbol"
            raise ImportError(msg)

    def obtain(self, folder: Path) -> Path:
        return obtain(folder, "cpu", load=self.load, build=self.build)


class TestObtain:
    def test_builds_once_and_then_loads(self, tmp_path: Path, lines: list[str]) -> None:
        builder = Builder()
        library = builder.obtain(tmp_path / "ext")
        assert library == tmp_path / "ext" / "nncf" / "kernels.so"
        assert lines[0].startswith("Building NNCF's quantization kernels (once, about a minute) in ")
        assert lines[1].startswith("Built NNCF's quantization kernels in ")
        lines.clear()
        assert builder.obtain(tmp_path / "ext") == library
        assert (len(builder.builds), builder.loads, lines) == (1, [library], [])

    def test_build_has_its_folder_no_time_limit_and_the_tools(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NNCF_EXTENSION_LOAD_TIMEOUT", "60")
        monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
        monkeypatch.delenv("CXX", raising=False)
        builder = Builder()
        builder.obtain(tmp_path)
        assert builder.environment["TORCH_EXTENSIONS_DIR"] == str(tmp_path)
        assert builder.environment["NNCF_EXTENSION_LOAD_TIMEOUT"] == "0"
        assert builder.environment["CXX"] == "c++"
        assert os.environ["NNCF_EXTENSION_LOAD_TIMEOUT"] == "60"
        assert not {"TORCH_EXTENSIONS_DIR", "CXX"} & set(os.environ)

    def test_removes_what_a_killed_build_left(self, tmp_path: Path) -> None:
        left = tmp_path / "nncf" / "quantized_functions_cpu" / "2.15.0"
        left.mkdir(parents=True)
        (left / "lock").touch()
        (left / "half.o").touch()
        (tmp_path / "building.json").write_text('{"pid": 1}')
        Builder().obtain(tmp_path)
        assert not left.exists()
        assert {path.name for path in tmp_path.iterdir()} == {"nncf", "built.json", "dfq_build.lock"}

    def test_builds_again_when_the_library_is_gone(self, tmp_path: Path) -> None:
        builder = Builder()
        builder.obtain(tmp_path).unlink()
        builder.obtain(tmp_path)
        assert len(builder.builds) == 2

    def test_builds_again_with_a_warning_when_the_library_does_not_load(self, tmp_path: Path, lines: list[str]) -> None:
        Builder().obtain(tmp_path)
        broken = Builder(loads=False)
        broken.obtain(tmp_path)
        assert len(broken.builds) == 1
        assert any("does not load and is built again: undefined symbol" in line for line in lines)

    def test_a_failed_build_leaves_no_trace_of_success(self, tmp_path: Path) -> None:
        def fail(_folder: Path) -> Path:
            msg = "no space left"
            raise DFQError(msg)

        with pytest.raises(DFQError, match="no space left"):
            obtain(tmp_path, "cpu", load=lambda _library: None, build=fail)
        assert {path.name for path in tmp_path.iterdir()} == {"dfq_build.lock"}
        assert Builder().obtain(tmp_path).is_file()

    def test_loads_without_lock_and_tools_from_a_folder_that_was_built(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Builder().obtain(tmp_path)
        (tmp_path / "dfq_build.lock").unlink()
        monkeypatch.setattr(extension, "find_build_tools", lambda: BuildTools(None, None, None, None))
        Builder().obtain(tmp_path)
        assert not (tmp_path / "dfq_build.lock").exists()

    def test_names_what_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(extension, "find_build_tools", lambda: BuildTools(None, None, "Python.h", None))
        with pytest.raises(DFQError, match=r"lacks ninja \(pip install ninja\); and a C\+\+ compiler"):
            Builder().obtain(tmp_path)

    def test_says_what_to_set_when_the_folder_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(DFQError, match="set DFQ_EXTENSION_DIR to a folder"):
            Builder().obtain(tmp_path / "file" / "ext")

    def test_second_one_waits_with_a_message_and_does_not_build(self, tmp_path: Path, lines: list[str]) -> None:
        first, second = Builder(), Builder()
        building, go_on = threading.Event(), threading.Event()

        def slow(folder: Path) -> Path:
            building.set()
            assert go_on.wait(10)
            return first.build(folder)

        threads = [threading.Thread(target=obtain, args=(tmp_path, "cpu", first.load, slow))]
        threads[0].start()
        assert building.wait(10)
        threads.append(threading.Thread(target=second.obtain, args=(tmp_path,)))
        threads[1].start()
        for _ in range(200):
            if any(line.startswith("Waiting for process") for line in lines):
                break
            threads[1].join(0.02)
        go_on.set()
        for thread in threads:
            thread.join(10)
        assert sum(line.startswith(f"Waiting for process {os.getpid()} on ") for line in lines) == 1
        assert (len(first.builds), len(second.builds), len(second.loads)) == (1, 0, 1)


class TestEnsureExtension:
    @pytest.fixture(autouse=True)
    def _fresh(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(extension, "_ready", {})
        monkeypatch.setenv("DFQ_EXTENSION_DIR", str(tmp_path))

    def test_gives_the_folder_of_what_nncf_has_loaded_already(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = SimpleNamespace(_loaded_namespace=SimpleNamespace(__file__="/somewhere/kernels.so"))
        monkeypatch.setattr(extension, "_namespace", lambda _device: loaded)
        assert ensure_extension() == Path("/somewhere")

    def test_asks_nncf_once_a_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []

        def namespace(device: str) -> SimpleNamespace:
            asked.append(device)
            return SimpleNamespace(_loaded_namespace=SimpleNamespace(__file__=f"/{device}/kernels.so"))

        monkeypatch.setattr(extension, "_namespace", namespace)
        assert {ensure_extension() for _ in range(3)} == {Path("/cpu")}
        assert ensure_extension("cuda") == Path("/cuda")
        assert asked == ["cpu", "cuda"]

    def test_forgets_nncfs_slow_substitute_and_builds(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        class Namespace:
            _loaded_namespace: object = object  # a class without a file, as NNCF's substitute is

            def get(self, _name: str) -> None:
                assert self._loaded_namespace is None
                library = Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "kernels.so"
                library.touch()
                self._loaded_namespace = SimpleNamespace(__file__=str(library))

        namespace = Namespace()
        monkeypatch.setattr(extension, "_namespace", lambda _device: namespace)
        folder = ensure_extension()
        assert folder.parent == tmp_path
        assert (folder / "built.json").is_file()

    @pytest.mark.parametrize("raises", [True, False], ids=["cuda_raises", "cpu_falls_back"])
    def test_failed_build_is_an_error_with_the_reason_and_nncf_is_quiet(
        self, raises: bool, monkeypatch: pytest.MonkeyPatch, lines: list[str]
    ) -> None:
        nncf_logger = logging.getLogger("nncf")
        nncfs_lines: list[str] = []

        class Namespace:
            _loaded_namespace: object = None

            def get(self, _name: str) -> None:
                if raises:
                    msg = "nvcc says no"
                    raise RuntimeError(msg)
                record = logging.LogRecord(
                    "nncf", logging.WARNING, "nncf/torch/extensions.py", 1, "g++ says no", None, None
                )
                nncf_logger.handle(record)
                self._loaded_namespace = object

        handler = logging.Handler()
        handler.emit = lambda record: nncfs_lines.append(record.getMessage())  # type: ignore[method-assign]
        nncf_logger.addHandler(handler)
        monkeypatch.setattr(extension, "_namespace", lambda _device: Namespace())
        try:
            with pytest.raises(DFQError, match="nvcc says no" if raises else r"g\+\+ says no"):
                ensure_extension()
        finally:
            nncf_logger.removeHandler(handler)
        assert "g++ says no" not in nncfs_lines
        assert nncf_logger.filters == []
        assert lines[0].startswith("Building")

    def test_cuda_is_refused_without_a_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nncf.torch.quantization.extensions.QuantizedFunctionsCUDA", object())
        with pytest.raises(DFQError, match="no CUDA device"):
            ensure_extension("cuda")
