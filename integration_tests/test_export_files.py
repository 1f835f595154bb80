"""The exported file as a file: packed or not, with its origin, the same each time, and whole or not there."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto

from dfq_plugin.config import ExportSettings
from dfq_plugin.errors import ExportError
from dfq_plugin.export import Exported, export_onnx
from dfq_plugin.export.lowering import lower
from dfq_plugin.export.packing import Packing
from dfq_plugin.student import Student
from dfq_plugin.summary import file_metadata
from dfq_plugin.validation.accuracy import onnx_logits
from dfq_plugin.validation.runtime import open_session
from integration_tests.conftest import Maker, calibration_set
from integration_tests.graphs import Graph
from integration_tests.networks import images


@pytest.mark.parametrize("weight_bits", [2, 4])
def test_int4_packing_is_smaller_and_bitwise_equal(weight_bits: int, make: Maker) -> None:
    plain = make("plain", weight_bits, 4, first_last_bits=None)
    packed = make("plain", weight_bits, 4, packing="int4", first_last_bits=None)
    graph = Graph(packed.path)
    casts = graph.of_type("Cast")
    assert len(casts) == len(graph.of_type("Conv", "Gemm"))
    for cast in casts:
        assert graph.tensors[cast.input[0]].data_type == TensorProto.INT4
    weights = sum(int(np.prod(graph.tensors[cast.input[0]].dims)) for cast in casts)
    saved = plain.path.stat().st_size - packed.path.stat().st_size
    assert weights / 2 >= saved > weights / 2 - 200 * len(casts)  # a Cast node takes some room itself
    tensor = images(16, seed=5)
    assert torch.equal(*(onnx_logits(open_session(made.path), tensor) for made in (plain, packed)))


def test_file_that_packing_would_not_make_smaller_is_the_plain_file(make: Maker) -> None:
    plain = make("mobile", 4, 4, first_last_bits=None)  # at most 216 weights a layer
    packed = make("mobile", 4, 4, packing="int4", first_last_bits=None)
    assert packed.path.read_bytes() == plain.path.read_bytes()


def test_8_bit_layers_stay_unpacked(make: Maker) -> None:
    made = make("plain", 4, 4, packing="int4")
    at_four = sum(entry.applied == 4 for entry in made.student.plan if entry.kind == "weight")
    assert len(Graph(made.path).of_type("Cast")) == at_four == 1


def test_metadata_is_kept_in_the_file(make: Maker, tmp_path: Path) -> None:
    made = make("sequential")
    exported = export_onnx(made.student, tmp_path / "deep" / "model.onnx", metadata={"provider": "noise", "seed": "3"})
    assert exported == Exported(tmp_path / "deep" / "model.onnx", exported.path.stat().st_size)
    found = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert found == {"dfq.provider": "noise", "dfq.seed": "3"}


def test_file_says_where_it_comes_from(make: Maker, tmp_path: Path) -> None:
    made, synthetic = make("sequential", 4, 4), calibration_set()
    exported = export_onnx(made.student, tmp_path / "model.onnx", metadata=file_metadata(synthetic, made.student))
    found = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert found.keys() == {f"dfq.{key}" for key in ("provider", "seed", "num_samples", "teacher", "bits", "versions")}
    assert (found["dfq.provider"], found["dfq.seed"], found["dfq.num_samples"]) == ("patches", "2", "32")
    assert found["dfq.bits"] == "activation 4, activation 8, weight 4, weight 8"
    assert "torch" in found["dfq.versions"]
    assert "nncf" in found["dfq.versions"]


def test_exporting_twice_gives_the_same_bytes(make: Maker, tmp_path: Path) -> None:
    student = make("sequential", 4, 4).student
    first, second = (export_onnx(student, tmp_path / name).path for name in ("first.onnx", "second.onnx"))
    assert first.read_bytes() == second.read_bytes()


def test_a_newer_operator_set_can_be_asked_for(make: Maker, tmp_path: Path) -> None:
    made = make("sequential", 4, 4)
    exported = export_onnx(made.student, tmp_path / "model.onnx", ExportSettings(opset=23))
    graph = Graph(exported.path)
    assert [(entry.domain, entry.version) for entry in graph.model.opset_import] == [("", 23)]
    tensor = images(8)
    assert torch.equal(*(onnx_logits(open_session(path), tensor) for path in (made.path, exported.path)))


@pytest.mark.parametrize("before", [None, b"an older model"], ids=["empty folder", "older file"])
def test_failed_export_leaves_the_folder_as_it_was(
    before: bytes | None, make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model.onnx"
    if before is not None:
        target.write_bytes(before)

    def break_graph(model: ir.Model, packing: Packing) -> None:
        lower(model, packing)
        model.graph[0].op_type = "NoSuchOperator"

    monkeypatch.setattr("dfq_plugin.export.lower", break_graph)
    with pytest.raises(ExportError, match=r"not valid ONNX.*NoSuchOperator"):
        export_onnx(make("sequential").student, target)
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if before is None else ["model.onnx"])
    assert before is None or target.read_bytes() == before


def test_quantizer_without_a_step_is_refused_by_name(make: Maker, tmp_path: Path) -> None:
    student: Student = copy.deepcopy(make("sequential").student)
    site = next(site for site in student.sites if site.kind == "activation" and not site.is_input)
    student.quantizer(site.name).scale.data.fill_(float("nan"))
    with pytest.raises(ExportError, match=rf"activation quantizer at {site.layer} has step nan"):
        export_onnx(student, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
