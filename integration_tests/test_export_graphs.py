"""The exported file: standard operators in the very form that integer kernels need, and the student in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from dfq_plugin import export
from dfq_plugin.config import ExportSettings
from dfq_plugin.errors import ExportError
from dfq_plugin.export import Exported, export_onnx
from dfq_plugin.student import Student
from dfq_plugin.validation.accuracy import onnx_logits, torch_logits
from dfq_plugin.validation.runtime import open_session
from integration_tests.conftest import Maker
from integration_tests.networks import NETWORKS, SHAPE, images

everywhere = pytest.mark.parametrize("name", NETWORKS)
at_any_bits = pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 4)])


class Graph:
    """A file with its constants and who makes what."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self.nodes = list(self.model.graph.node)
        self.tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.makers = {output: node for node in self.nodes for output in node.output}

    def of_type(self, *op_types: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type in op_types]

    def maker(self, name: str) -> onnx.NodeProto | None:
        return self.makers.get(name)

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def array(self, name: str) -> Any:
        return numpy_helper.to_array(self.tensors[name])

    def activations(self) -> Iterator[onnx.NodeProto]:
        return (node for node in self.of_type("DequantizeLinear") if node.input[0] not in self.tensors)

    def dequantizer(self, product: onnx.NodeProto, port: int) -> onnx.NodeProto:
        node = self.maker(product.input[port])
        assert node is not None
        assert node.op_type == "DequantizeLinear"
        return node


@everywhere
@at_any_bits
def test_only_standard_operators_are_left(name: str, weight_bits: int, activation_bits: int, make: Maker) -> None:
    graph = Graph(make(name, weight_bits, activation_bits).path)
    assert {node.domain for node in graph.nodes} == {""}
    assert {(entry.domain, entry.version) for entry in graph.model.opset_import} == {("", 21)}
    assert graph.model.ir_version <= 10
    assert graph.model.producer_name == "dfq_plugin"
    onnx.checker.check_model(graph.model, full_check=True)
    assert not graph.of_type("ReduceMean", "Flatten")
    assert not graph.of_type("Transpose")  # weights are stored as they are read


@everywhere
def test_activations_are_uint8_with_one_step_and_zero_point(name: str, make: Maker) -> None:
    graph = Graph(make(name, 4, 4, preset="mixed").path)
    quantizers = graph.of_type("QuantizeLinear")
    assert len(quantizers) >= 3
    for node in [*quantizers, *graph.activations()]:
        step, zero = graph.tensors[node.input[1]], graph.tensors[node.input[2]]
        assert (list(step.dims), list(zero.dims)) == ([], [])
        assert (step.data_type, zero.data_type) == (TensorProto.FLOAT, TensorProto.UINT8)
        assert graph.array(node.input[1]) > 0


@everywhere
@at_any_bits
def test_weights_are_int8_and_biases_int32_on_the_grid_of_their_sum(
    name: str, weight_bits: int, activation_bits: int, make: Maker
) -> None:
    graph = Graph(make(name, weight_bits, activation_bits, first_last_bits=None).path)
    products = graph.of_type("Conv", "Gemm")
    assert len(products) >= 3
    top = 2 ** (weight_bits - 1)
    for product in products:
        source, weight = graph.dequantizer(product, 0), graph.dequantizer(product, 1)
        codes, weight_step = graph.array(weight.input[0]), graph.array(weight.input[1])
        assert codes.dtype == np.int8
        assert codes.min() >= -top
        assert codes.max() <= top - 1
        assert np.abs(codes).max() > top // 2  # the bits are used
        assert weight_step.shape == (len(codes),)  # one step per output channel
        assert not graph.array(weight.input[2]).any()
        if len(product.input) == 3:
            bias = graph.dequantizer(product, 2)
            assert graph.array(bias.input[0]).dtype == np.int32
            expected = np.float32(graph.array(source.input[1])) * weight_step
            assert np.array_equal(graph.array(bias.input[1]), expected)
            assert expected.dtype == np.float32


def test_a_layer_without_bias_gets_none(make: Maker) -> None:
    (gemm,) = Graph(make("plain").path).of_type("Gemm")
    assert len(gemm.input) == 2


@everywhere
def test_codes_are_clipped_between_quantizing_and_reading_below_8_bits(name: str, make: Maker) -> None:
    made = make(name, 4, 3, first_last_bits=None)
    graph = Graph(made.path)
    clips = graph.of_type("Clip")
    low = [entry for entry in made.student.plan if entry.kind == "activation" and entry.applied == 3]
    assert len(clips) >= len(low) > 0
    for clip in clips:
        maker = graph.maker(clip.input[0])
        assert maker is not None
        assert maker.op_type == "QuantizeLinear"
        bottom, top = (graph.array(bound) for bound in clip.input[1:])
        assert (bottom.dtype, top.dtype, int(bottom)) == (np.uint8, np.uint8, 0)
        assert top <= 2**8 - 1
    assert sum(int(graph.array(clip.input[2])) <= 2**3 - 1 for clip in clips) == len(low)


def test_no_clip_is_needed_at_8_bits(make: Maker) -> None:
    assert not Graph(make("residual").path).of_type("Clip")


def test_relu6_becomes_relu_and_a_limit_on_codes(make: Maker) -> None:
    made = make("mobile", 8, 8)
    graph = Graph(made.path)
    assert len(graph.of_type("Relu")) == 4
    for clip in graph.of_type("Clip"):
        assert graph.array(clip.input[2]).dtype == np.uint8
    for relu in graph.of_type("Relu"):
        (quantizer,) = graph.readers(relu.output[0])
        step, zero = (graph.array(name) for name in quantizer.input[1:])
        assert zero == 0
        limit = np.rint(np.float32(6) / step)
        clips = [node for node in graph.readers(quantizer.output[0]) if node.op_type == "Clip"]
        reached = int(graph.array(clips[0].input[2])) if clips else 255
        assert reached == min(255, limit)


def test_relu6_of_a_wide_range_limits_the_codes_to_six(make: Maker) -> None:
    student = copy.deepcopy(make("mobile", 8, 8).student)
    site = next(site for site in student.sites if "hardtanh" in site.layer)
    student.quantizer(site.name).scale.data.fill_(12.0)  # steps of 12 / 255: six is half way up, code 127.5 -> 128
    path = make("mobile", 8, 8).path.with_name("wide.onnx")
    graph = Graph(export_onnx(student, path).path)
    (clip,) = (clip for clip in graph.of_type("Clip") if int(graph.array(clip.input[2])) == 128)
    tensor = images(64, seed=4)
    same = torch_logits(student, tensor).argmax(1) == onnx_logits(open_session(path), tensor).argmax(1)
    assert same.double().mean() >= 0.99
    assert clip.name.startswith(site.layer)


@pytest.mark.parametrize("name", ["residual", "mobile", "same_padded", "sequential"])
def test_mean_over_the_image_becomes_a_global_pool(name: str, make: Maker) -> None:
    (pool,) = Graph(make(name).path).of_type("GlobalAveragePool")
    assert pool


@everywhere
def test_flatten_becomes_a_reshape_that_reads_codes_or_a_pool(name: str, make: Maker) -> None:
    graph = Graph(make(name).path)
    (reshape,) = graph.of_type("Reshape")
    maker = graph.maker(reshape.input[0])
    assert maker is not None
    assert maker.op_type in ("QuantizeLinear", "MaxPool", "GlobalAveragePool")


def test_shortcut_without_parameters_moves_codes(make: Maker) -> None:
    graph = Graph(make("residual", 4, 4).path)
    (pad,) = graph.of_type("Pad")
    first, second = graph.of_type("Slice")
    assert graph.array(pad.input[2]).dtype == np.uint8
    assert second.input[0] == first.output[0]
    assert pad.input[0] == second.output[0]
    (reader,) = graph.readers(pad.output[0])
    assert reader.op_type == "DequantizeLinear"
    assert graph.array(reader.input[2]) == graph.array(pad.input[2])  # zero is the zero point


def test_padding_on_one_side_goes_into_the_convolution(make: Maker) -> None:
    graph = Graph(make("same_padded").path)
    assert not graph.of_type("Pad")
    pads = [list(onnx.helper.get_node_attr_value(conv, "pads")) for conv in graph.of_type("Conv")]
    assert pads == [[0, 0, 1, 1], [1, 1, 2, 2], [0, 0, 0, 0]]


@everywhere
def test_any_number_of_images_can_be_run_at_once(name: str, make: Maker) -> None:
    made = make(name, 4, 4)
    session = open_session(made.path)
    (entry,) = session.get_inputs()
    assert (entry.name, entry.shape[1:]) == ("images", list(SHAPE))
    five = images(5, seed=6)
    together = onnx_logits(session, five)
    apart = torch.cat([onnx_logits(session, part) for part in (five[:1], five[1:4], five[4:])])
    assert together.shape == (5, 10)
    assert torch.equal(together, apart)
    assert [output.name for output in session.get_outputs()] == ["logits"]


@everywhere
@at_any_bits
def test_student_and_file_agree(name: str, weight_bits: int, activation_bits: int, make: Maker) -> None:
    made = make(name, weight_bits, activation_bits)
    tensor = images(200, seed=8)
    student, file = torch_logits(made.student, tensor), onnx_logits(open_session(made.path), tensor)
    assert (student.argmax(1) == file.argmax(1)).double().mean() >= 0.99
    assert (student - file).abs().median() < 1e-4 * student.abs().max()


@pytest.mark.parametrize("name", ["mobile", "plain"])
@pytest.mark.parametrize("weight_bits", [2, 4])
def test_int4_packing_is_smaller_and_bitwise_equal(name: str, weight_bits: int, make: Maker) -> None:
    plain = make(name, weight_bits, 4, first_last_bits=None)
    packed = make(name, weight_bits, 4, packing="int4", first_last_bits=None)
    graph = Graph(packed.path)
    casts = graph.of_type("Cast")
    assert len(casts) == len(graph.of_type("Conv", "Gemm"))
    for cast in casts:
        assert graph.tensors[cast.input[0]].data_type == TensorProto.INT4
    weights = sum(int(np.prod(graph.tensors[cast.input[0]].dims)) for cast in casts)
    saved = plain.path.stat().st_size - packed.path.stat().st_size
    assert weights / 2 >= saved > weights / 2 - 200 * len(casts)  # a Cast node takes some room itself
    assert saved > 0 or name == "mobile"  # whose weights are smaller than such a node
    tensor = images(16, seed=5)
    assert torch.equal(*(onnx_logits(open_session(made.path), tensor) for made in (plain, packed)))


def test_8_bit_layers_stay_unpacked(make: Maker) -> None:
    made = make("plain", 4, 4, packing="int4")
    at_four = sum(entry.applied == 4 for entry in made.student.plan if entry.kind == "weight")
    assert len(Graph(made.path).of_type("Cast")) == at_four == 1


def test_metadata_is_kept_in_the_file(make: Maker, tmp_path: Path) -> None:
    made = make("sequential")
    exported = export_onnx(made.student, tmp_path / "deep" / "model.onnx", metadata={"provider": "noise", "seed": "3"})
    assert exported == Exported(tmp_path / "deep" / "model.onnx", exported.path.stat().st_size)
    found = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert (found["dfq.provider"], found["dfq.seed"]) == ("noise", "3")


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

    def break_graph(model: Any, packing: str) -> None:
        lower(model, packing)
        model.graph[0].op_type = "NoSuchOperator"

    lower = export.lower
    monkeypatch.setattr(export, "lower", break_graph)
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
