"""What is read from the machine, and from texts that other machines would show."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from dfq_plugin import hardware
from dfq_plugin.hardware import Processor, import_if_there, read_gpus, read_memory, read_processor

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu avx2 avx512f avx512_vnni avx_vnni amx_int8

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
NEOVERSE = "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm\n"


def processor(architecture: str, *instructions: str) -> Processor:
    return Processor("test", architecture, instructions, cores=2, usable_cores=2)


class TestProcessor:
    def test_reads_intel_flags(self, tmp_path: Path) -> None:
        (tmp_path / "cpuinfo").write_text(XEON)
        found = read_processor(tmp_path / "cpuinfo")
        assert found.name == "Intel(R) Xeon(R) Platinum 8480+"
        assert found.instructions == ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")

    def test_reads_arm_features(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        (tmp_path / "cpuinfo").write_text(NEOVERSE)
        found = read_processor(tmp_path / "cpuinfo")
        assert found.instructions == ("dotprod", "i8mm", "sve")
        assert found.architecture == "aarch64"

    def test_asks_torch_when_the_system_does_not_say(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        capabilities = {"avx2": True, "avx512_f": True, "avx512_vnni": False, "cpu_name": "A CPU"}
        monkeypatch.setattr(hardware, "_torch_capabilities", lambda: capabilities)
        found = read_processor(tmp_path / "missing")
        assert (found.name, found.instructions) == ("A CPU", ("avx2", "avx512f"))

    def test_says_not_known_when_nobody_does(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        found = read_processor(tmp_path / "missing")
        assert found.instructions is None
        assert found.name

    def test_reads_this_machine(self) -> None:
        found = read_processor()
        assert 1 <= found.usable_cores <= found.cores

    @pytest.mark.parametrize(
        ("found", "saturates"),
        [
            pytest.param(processor("x86_64", "avx2"), True, id="avx2"),
            pytest.param(processor("x86_64", "avx2", "avx512f"), True, id="avx512_without_vnni"),
            pytest.param(processor("AMD64", "avx2", "avx_vnni"), False, id="avx_vnni"),
            pytest.param(processor("x86_64", "avx2", "avx512f", "avx512_vnni"), False, id="avx512_vnni"),
            pytest.param(processor("x86_64", "amx_int8"), False, id="amx"),
            pytest.param(processor("aarch64"), False, id="arm"),
            pytest.param(Processor("?", "x86_64", None, 1, 1), None, id="not_known"),
        ],
    )
    def test_w8a8_may_saturate_on_x86_without_vnni(self, found: Processor, saturates: bool | None) -> None:
        assert found.may_saturate_w8a8 is saturates


class TestMemory:
    def test_is_that_of_the_container_when_it_is_less(self, tmp_path: Path) -> None:
        (tmp_path / "memory.max").write_text("1048576\n")
        found = read_memory(tmp_path / "memory.max")
        assert (found.total, found.available) == (1048576, 1048576)

    @pytest.mark.parametrize("text", ["max\n", None])
    def test_is_that_of_the_machine_when_the_container_has_no_limit(self, text: str | None, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "memory.max").write_text(text)
        found = read_memory(tmp_path / "memory.max")
        assert found.total is not None
        assert found.total > 2**27

    def test_is_not_known_without_psutil(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psutil", None)
        assert read_memory().total is None


def test_no_gpus_are_listed_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert read_gpus() == ()


def test_gpus_are_listed_as_torch_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name = "H"
        total_memory = 8

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _index: Properties())
    assert read_gpus() == (hardware.Gpu("H", 8), hardware.Gpu("H", 8))


def test_broken_package_counts_as_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("raise OSError('libc10.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    assert import_if_there("half_installed") is None
    assert import_if_there("json") is sys.modules["json"]
