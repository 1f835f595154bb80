"""Every call that changes the disk fails once: each final name holds the old file or the new one, never a mixture."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import dfq_plugin as dfq
from dfq_plugin import export, quantization, validation
from dfq_plugin.errors import DFQError
from dfq_plugin.report import html
from integration_tests.faults import DeathError, Faults, Kind, watched
from integration_tests.tiny_run import FILES, files_in, fingerprint, tiny_job

pytestmark = pytest.mark.usefixtures("kernels")

ALL = os.environ.get("DFQ_TEST_ALL_FAULTS") == "1"  # every single call, and a death at each; minutes
OPERATIONS = {"open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir"}
COMPARED = {"synthetic.safetensors", "student/student.safetensors", "model.onnx"}  # the others tell of times and places


@dataclass(frozen=True)
class Case:
    """A finished job of the past, and what the job that is to replace it gives when nothing fails."""

    folder: Path
    old: dict[str, str]
    new: dict[str, str]
    sites: list[str]


def run_new_job(where: Path, faults: Faults) -> BaseException | None:
    """Run the new job in ``where``; gives what it ended with."""
    try:
        with watched(faults):
            dfq.run(tiny_job(where / "out", seed=1))
    except (Exception, DeathError) as error:  # noqa: BLE001 - judged by the caller
        return error
    return None


@pytest.fixture(scope="module")
def _quick_computation() -> Iterator[None]:
    """Compute each thing once: it is the writing that is tried here, a hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        _keep(patch, quantization, "quantize", copy.deepcopy)
        _keep(patch, export, "trace", _copy_graph)
        _keep(patch, export, "trace_network", _copy_graph)
        _keep(patch, validation, "validate", copy.deepcopy)
        _keep(patch, validation, "assess", copy.deepcopy)
        _keep(patch, html, "render_html", copy.deepcopy)
        yield


def _keep(patch: pytest.MonkeyPatch, module: Any, name: str, copy_of: Callable[[Any], Any]) -> None:
    compute, kept = getattr(module, name), {}

    def once(*given: Any, **more: Any) -> Any:
        seed = kept.setdefault("seed", CURRENT[0])
        if seed != CURRENT[0] or "result" not in kept:
            kept.update(seed=CURRENT[0], result=compute(*given, **more))
        return copy_of(kept["result"])

    patch.setattr(module, name, once)


CURRENT = [0]  # the seed of the job that runs


def _copy_graph(model: ir.Model) -> ir.Model:
    return ir.from_proto(ir.to_proto(model))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, _quick_computation: None) -> Iterator[Case]:
    root = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DFQ_CACHE_DIR", str(root / "cache of the past"))
        dfq.run(tiny_job(root / "old", seed=0))
        assert files_in(root / "old") == FILES
        CURRENT[0] = 1
        patch.setenv("DFQ_CACHE_DIR", str(root / "reference" / "cache"))
        shutil.copytree(root / "old", root / "reference" / "out")
        with watched(Faults([root / "reference"])) as faults:
            dfq.run(tiny_job(root / "reference" / "out", seed=1))
    old, new = ({name: fingerprint(root / at / name) for name in COMPARED} for at in ("old", "reference/out"))
    assert all(old[name] != new[name] for name in COMPARED)
    yield Case(root / "old", old, new, faults.sites)
    CURRENT[0] = 0


def test_every_kind_of_call_is_seen_and_every_final_name_is_flushed(case: Case) -> None:
    assert {site.partition(" ")[0] for site in case.sites} >= OPERATIONS
    for name in FILES:
        renamed = [index for index, site in enumerate(case.sites) if site.startswith(f"replace {Path(name).name} ")]
        assert renamed, f"{name} is not renamed into its place"
        before, after = case.sites[renamed[0] - 1], case.sites[renamed[0] + 1]
        assert before.startswith("fsync "), f"{name} is renamed before the disk has it: {before}"
        assert after.startswith("fsync "), f"the name of {name} is not flushed: {after}"


def test_no_final_name_is_ever_opened_for_writing(case: Case) -> None:
    names = {Path(name).name for name in FILES}
    assert not [site for site in case.sites if site.split()[0] in {"open", "write"} and site.split()[1] in names]


@pytest.mark.parametrize("kind", ["error", "death"])
def test_old_or_new_whatever_fails(
    kind: Kind, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    every = 1 if ALL else 3 if kind == "error" else 9  # after a death a second run has to show that nothing was lost
    for site, at in list(first_calls(case.sites).items())[::every]:
        where = tmp_path / str(at)
        monkeypatch.setenv("DFQ_CACHE_DIR", str(where / "cache"))
        with subtests.test(site=site, at=at):
            check_site(at, kind, case, where)
        shutil.rmtree(where)


def first_calls(sites: list[str]) -> dict[str, int]:
    """Each call site once, or every call where all are asked for."""
    if ALL:
        return {f"{index}: {site}": index for index, site in enumerate(sites)}
    return {site: index for index, site in reversed(list(enumerate(sites)))}


def check_site(at: int, kind: Kind, case: Case, where: Path) -> None:
    shutil.copytree(case.folder, where / "out")
    error = run_new_job(where, Faults([where], at, kind))
    if kind == "error" and error is not None:
        assert isinstance(error, (DFQError, OSError)), repr(error)
        assert "No space left" in str(error)
    for name in FILES:
        found = fingerprint(where / "out" / name)  # raises when the file is not whole
        if name in case.new:
            assert found in {case.old[name], case.new[name]}, f"{name} is a mixture"
    if kind == "death":  # the same command ends as if nothing had been, and nothing lies about
        assert isinstance(error, DeathError)
        assert run_new_job(where, Faults([])) is None
        assert files_in(where / "out") == FILES
        assert {name: fingerprint(where / "out" / name) for name in case.new} == case.new
