"""Every Python block of README and the pages is run, page by page, on a tiny network and little of everything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dfq_plugin import api
from dfq_plugin.config import ExportSettings
from dfq_plugin.export import export_float, export_onnx
from dfq_plugin.providers import registry
from dfq_plugin.providers.base import Provider
from dfq_plugin.student import Student
from dfq_plugin.testing import tiny_teacher
from integration_tests.doc_blocks import Block, blocks

pytestmark = [
    pytest.mark.usefixtures("kernels"),
    # NNCF loads its compiled functions in a thread pool that it never closes.
    pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning"),
]
SIZE = 16
SMALLER = {  # what the pages say, and what is run instead
    r"\(3, 224, 224\)": f"(3, {SIZE}, {SIZE})",
    r"\(1, 224, 224, 3\)": f"(1, {SIZE}, {SIZE}, 3)",
    r"num_samples=\d+": "num_samples=4",
}
MOST = {"steps": 2, "steps_per_epoch": 2, "warmup_epochs": 1}  # of a provider, whatever it is asked for
RUN = [block for block in blocks("python") if not block.excused]
Names = dict[str, Any]


def smaller(text: str) -> str:
    for pattern, replacement in SMALLER.items():
        text = re.sub(pattern, replacement, text)
    return text


def quick_provider(name: str, params: Mapping[str, Any]) -> Provider:
    """A provider that does next to nothing."""
    fields = registry.get_provider(name).model_fields
    return registry.build_provider(name, {**params, **{key: most for key, most in MOST.items() if key in fields}})


def file_of(network: nn.Module, path: str, name: str = "any") -> Student:
    """Leave a file behind as the reader would have one."""
    synthetic = api.generate(network, provider="noise", input_shape=(3, SIZE, SIZE), num_samples=4)
    student = api.quantize(network, synthetic)
    export_onnx(student, path, metadata={"provider": name})
    return student


def prepare_deploying(names: Names) -> None:
    file_of(names["model"], "model.onnx", "noise")
    export_float(names["model"], (3, SIZE, SIZE), "float.onnx", ExportSettings())


def check_proven(names: Names) -> None:
    parity = names["verdict"].parity
    assert parity.codes_compared > 1000
    assert parity.mismatches == 0
    assert names["verdict"].census.float == 0


def check_config(names: Names) -> None:
    assert names["config"].quantize.weight_bits == 3
    printer = names["Printer"]()
    printer.scalars([("loss", 1.0, 0)])
    printer.close(failed=False)


def check_methods(names: Names) -> None:
    assert names["students"].keys() == {"zeroq", "fractal", "noise"}
    assert all(isinstance(student, Student) for student in names["students"].values())


def check_hooks(names: Names) -> None:
    check_proven(names)
    assert len(names["hooks"].losses) == 2
    assert all(torch.isfinite(torch.tensor(names["hooks"].losses)))


def check_many_processes(names: Names) -> None:
    assert names["crew"].count == 1
    assert len(names["images"]) == 4


def check_provider(names: Names) -> None:
    assert names["synthetic"].provenance.settings == {"contrast": 0.5}
    names["TestStripes"]().test_same_seed_gives_same_images_when_global_random_state_differs()


def check_deploying(names: Names) -> None:
    assert names["session"].get_modelmeta().custom_metadata_map["dfq.provider"] == "noise"
    assert names["logits"].shape == (1, 4)
    assert names["compiled"](names["images"])[0].argmax() == names["logits"].argmax()
    assert Path("int8.onnx").stat().st_size > 0
    assert Path("int8.xml").stat().st_size > 0


CHECKS: dict[str, Callable[[Names], None]] = {
    "README.md": check_proven,
    "index.md": check_proven,
    "proof.md": check_proven,
    "config.md": check_config,
    "methods.md": check_methods,
    "hooks.md": check_hooks,
    "many_processes.md": check_many_processes,
    "writing_a_provider.md": check_provider,
    "deploying.md": check_deploying,
}
PREPARATIONS: dict[str, Callable[[Names], None]] = {"deploying.md": prepare_deploying}


def test_every_page_with_python_has_something_to_check() -> None:
    assert {block.page for block in RUN} == CHECKS.keys()


@pytest.mark.parametrize("page", sorted(CHECKS))
def test_python_on_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "build_provider", quick_provider)
    registry.list_providers()  # a module registers its provider only once, so before what is put back in the end
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    Path("config.json").write_text('{"model": {"source": "timm:any"}, "input_shape": [3, 8, 8]}', encoding="utf-8")
    names: Names = {"__name__": "page", "model": tiny_teacher(size=SIZE)}
    PREPARATIONS.get(page, lambda _: None)(names)
    for block in (block for block in RUN if block.page == page):
        run(block, names)
    CHECKS[page](names)


def run(block: Block, names: Names) -> None:
    """Run a block as if it stood in its file, so that an error names the line."""
    text = "\n" * (block.line - 1) + smaller(block.text)
    exec(compile(text, block.page, "exec", dont_inherit=True), names)  # noqa: S102 - the point of it


@pytest.mark.parametrize("pattern", SMALLER)
def test_what_is_made_smaller_is_said(pattern: str) -> None:
    assert any(re.search(pattern, block.text) for block in RUN)


@pytest.mark.skipif(
    not ("ONNXRUNTIME_INCLUDE" in os.environ and shutil.which("g++")),
    reason="onnxruntime's C++ headers are not in its Python package; ONNXRUNTIME_INCLUDE may name their folder",
)
def test_cpp_is_valid(tmp_path: Path) -> None:
    for block in blocks("cpp"):
        source = tmp_path / "main.cpp"
        source.write_text(block.text, encoding="utf-8")
        command = ["g++", "-std=c++17", "-fsyntax-only", "-I", os.environ["ONNXRUNTIME_INCLUDE"], str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
