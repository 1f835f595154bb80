"""What the doctor sees, and what it advises."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dfq_plugin
from dfq_plugin import doctor
from dfq_plugin.diagnosis import Level
from dfq_plugin.doctor import Diagnosis, Extension, Finding, examine, fix, format_diagnosis
from dfq_plugin.hardware import Gpu, Memory, Processor, import_if_there
from dfq_plugin.machine import BuildTools, installed_version

GIB = 1024**3
HEALTHY = Diagnosis(
    versions={"python": "3.11", "timm": None},
    processor=Processor("A Xeon", "x86_64", ("avx2", "avx512_vnni"), cores=4, usable_cores=2),
    memory=Memory(total=16 * GIB, available=8 * GIB),
    gpus=(),
    tools=BuildTools("/bin/ninja", "c++", "Python.h", None),
    extension=Extension("built", folder="/cache/ext"),
    missing_extras={"vision": (), "report": ()},
    features={"quantizing": (), "MLflow": ("mlflow",)},
    caches={"/cache/sets": 1024},
)


def judged(**changes: Any) -> list[Finding]:
    return list(doctor._judge(replace(HEALTHY, **changes)))


def problems(**changes: Any) -> list[Finding]:
    return [finding for finding in judged(**changes) if finding.level != "ok"]


def test_healthy_machine_has_no_problems() -> None:
    assert problems() == []


@pytest.mark.parametrize("platform_", ["x86_64", "AMD64"])
def test_saturation_is_warned_of_without_vnni(platform_: str) -> None:
    (found,) = problems(processor=Processor("Old", platform_, ("avx2",), 1, 1))
    assert found.level == "warn"
    assert "W8A8 may saturate" in found.what
    assert "session.x64quantprecision = 1" in found.advice
    assert '"overflow_fix": "enable"' in found.advice


def test_arm_is_warned_of_single_codes() -> None:
    (found,) = problems(processor=Processor("Arm", "aarch64", ("dotprod",), 1, 1))
    assert "ARM" in found.what


def test_not_known_instructions_are_said_to_be_so() -> None:
    (found,) = problems(processor=Processor("?", "x86_64", None, 1, 1))
    assert "not known" in found.what


def test_missing_compiler_is_an_error_only_when_kernels_are_not_built() -> None:
    without = BuildTools("/bin/ninja", None, "Python.h", None)
    assert problems(tools=without) == []
    (found,) = problems(tools=without, extension=Extension("missing", folder="/cache/ext"))
    assert found.level == "error"
    assert "C++ compiler" in found.advice


def test_kernels_to_be_built_are_no_problem() -> None:
    found = judged(extension=Extension("missing", folder="/cache/ext"))
    assert any("will be built on first use" in finding.what for finding in found)


@pytest.mark.parametrize(
    ("state", "said"), [("building", "Another process is building"), ("cut off", "was cut off; the next use clears")]
)
def test_state_of_the_kernels_is_told(state: Any, said: str) -> None:
    found = judged(extension=Extension(state, folder="/cache/ext"))
    assert [finding.level for finding in found if said in finding.what] == ["ok"]


def test_lock_of_a_dead_build_is_warned_of_with_the_cure() -> None:
    (found,) = problems(extension=Extension("built", "/cache/ext", dead_locks=("/torch/lock",)))
    assert "/torch/lock" in found.what
    assert found.advice == "dfq doctor --fix"


class TestTorchvision:
    def answer(self, monkeypatch: pytest.MonkeyPatch, requires: str) -> list[Finding]:
        own = importlib.metadata.requires
        monkeypatch.setattr(
            importlib.metadata, "requires", lambda name: [requires] if name == "torchvision" else own(name)
        )
        return problems()

    def test_made_for_another_torch_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        (found,) = self.answer(monkeypatch, "torch==1.2.3")
        assert found.level == "error"
        assert "was made for torch ==1.2.3, but torch is" in found.what
        assert "pip install --upgrade torch torchvision" in found.advice

    def test_made_for_this_torch_is_fine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.answer(monkeypatch, f"torch=={installed_version('torch')}") == []

    def test_that_cannot_be_imported_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import_ = import_if_there
        monkeypatch.setattr(doctor, "import_if_there", lambda name: None if name == "torchvision" else import_(name))
        (found,) = problems()
        assert "is installed and cannot be imported" in found.what


class TestFeatures:
    def test_each_says_what_it_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "installed_version", lambda name: None if name in {"jinja2", "nncf"} else "1")
        found = doctor._features(HEALTHY.tools, (), Extension("missing", "/cache/ext"))
        assert found["HTML report"] == ("jinja2",)
        assert found[doctor.QUANTIZE] == ("nncf",)
        assert found["OpenVINO"] == ()
        assert found[doctor.ON_GPU] == ("a GPU that torch can use",)

    def test_quantizing_lacks_a_compiler_only_while_kernels_are_not_built(self) -> None:
        without = BuildTools("/bin/ninja", None, "Python.h", None)
        assert "C++ compiler" in doctor._features(without, (), Extension("missing", "/x"))[doctor.QUANTIZE][0]
        assert doctor._features(without, (), Extension("built", "/x"))[doctor.QUANTIZE] == ()

    def test_gpu_asks_for_nvcc(self) -> None:
        (lacking,) = doctor._features(HEALTHY.tools, (Gpu("H", 1),), HEALTHY.extension)[doctor.ON_GPU]
        assert "nvcc" in lacking


class TestFix:
    def test_removes_dead_locks_and_builds_what_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        lock = tmp_path / "lock"
        lock.touch()
        monkeypatch.setattr(doctor, "dead_locks", lambda: [lock])
        monkeypatch.setattr(doctor, "extension_state", lambda _folder: "cut off")
        monkeypatch.setattr("dfq_plugin.quantization.extension.ensure_extension", lambda: tmp_path / "built")
        removed, built = fix()
        assert not lock.exists()
        assert str(lock) in removed
        assert str(tmp_path / "built") in built

    def test_says_so_when_all_is_well(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "dead_locks", list)
        monkeypatch.setattr(doctor, "extension_state", lambda _folder: "built")
        assert fix() == ["There was nothing to fix."]

    def test_cannot_build_without_nncf(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "dead_locks", list)
        monkeypatch.setattr(doctor, "extension_state", lambda _folder: "missing")
        monkeypatch.setattr(doctor, "installed_version", lambda _name: None)
        assert "before torch and nncf can be imported" in fix()[0]


@pytest.mark.parametrize(("extra", "level"), [("vision", "warn"), ("report", "warn"), ("tracking", "ok")])
def test_missing_extra_names_the_pip_command(extra: str, level: str) -> None:
    found = [finding for finding in judged(missing_extras={extra: ("one", "two")}) if extra in finding.what]
    assert [finding.level for finding in found] == [level]
    assert "one, two" in found[0].what
    assert found[0].advice == f"pip install 'dfq-plugin[{extra}]'"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        pytest.param({"memory": Memory(16 * GIB, GIB)}, "1.0 GiB of memory", id="low_memory"),
        pytest.param({"gpus": (Gpu("H", 1),)}, "nvcc", id="gpu_without_nvcc"),
        pytest.param({"caches": {"/a": 6 * GIB, "/b": 6 * GIB}}, "12.0 GiB", id="large_caches"),
    ],
)
def test_resources_are_warned_of(changes: dict[str, Any], word: str) -> None:
    (found,) = problems(**changes)
    assert found.level == "warn"
    assert word in found.what


def test_missing_package_is_an_error_with_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: ["nncf>=3.4", "timm>=1; extra == 'vision'"])
    version = installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == "nncf" else version(name))
    (found,) = problems()
    assert (found.level, found.what) == ("error", "nncf is not installed.")
    assert found.advice == "pip install 'nncf>=3.4'"


def test_old_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: ["nncf>=99"])
    (found,) = problems()
    assert found.level == "error"
    assert re.match(r"nncf \S+ does not fit: >=99 is needed\.", found.what)


@pytest.mark.parametrize("missing", ["torch", "nncf", "psutil", "packaging.requirements"])
def test_examines_when_a_package_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DFQ_EXTENSION_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, missing, None)
    version = installed_version
    monkeypatch.setattr(doctor, "installed_version", lambda name: None if name == missing else version(name))
    diagnosis = examine()
    assert (f"{missing} is not installed." in [finding.what for finding in diagnosis.findings]) == (
        missing in doctor.CORE
    )


def test_examine_changes_nothing_and_is_plain_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DFQ_EXTENSION_DIR", str(tmp_path / "ext"))
    monkeypatch.setenv("DFQ_CACHE_DIR", str(tmp_path / "sets"))
    (tmp_path / "sets" / "parts").mkdir(parents=True)
    (tmp_path / "sets" / "parts" / "a").write_bytes(bytes(60))
    (tmp_path / "sets" / "b").write_bytes(bytes(40))
    data = json.loads(json.dumps(examine().to_json()))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "parts", "sets"]
    assert data["caches"] == {str(tmp_path / "sets"): 100}
    assert (data["extension"]["built"], data["extension"]["state"]) == (False, "missing")
    assert data["versions"]["dfq-plugin"] == dfq_plugin.__version__
    assert {"python", "torch", "torchvision", "timm", "nncf", "onnx", "onnx-ir", "onnxruntime"} <= set(data["versions"])
    assert data["level"] in {"ok", "warn", "error"}


@pytest.mark.parametrize(
    ("levels", "worst"), [((), "ok"), (("ok", "warn"), "warn"), (("warn", "error", "ok"), "error")]
)
def test_level_is_the_worst_finding(levels: tuple[Level, ...], worst: str) -> None:
    assert replace(HEALTHY, findings=tuple(Finding(level, "x") for level in levels)).level == worst


def test_text_shows_facts_in_columns_and_findings_with_advice() -> None:
    text = format_diagnosis(replace(HEALTHY, findings=(Finding("ok", "Fine."), Finding("warn", "Hm.", "Do this."))))
    lines = text.splitlines()
    assert "timm          not installed" in lines
    assert "instructions  avx2 avx512_vnni" in lines
    assert "cores         2 of 4 usable" in lines
    assert "memory        16.0 GiB, 8.0 GiB free" in lines
    assert "cache         /cache/sets (1.0 KiB)" in lines
    assert "quantizing    works" in lines
    assert "MLflow        lacks mlflow" in lines
    assert lines[-4:] == ["", "[ok] Fine.", "[warn] Hm.", "       Do this."]


def test_package_lists_are_those_of_setup() -> None:
    text = (Path(dfq_plugin.__file__).parents[1] / "setup.py").read_text(encoding="utf-8")
    words = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
    required = {re.split(r"[><=]", word)[0] for word in words if isinstance(word, str)}
    assert set(doctor.CORE) <= required
    for extra, packages in doctor.EXTRAS.items():
        assert {extra, *packages} <= required
