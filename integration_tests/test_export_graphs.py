"""The exported file: standard operators in the very form that integer kernels need, and the student in it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from dfq_plugin.export import export_onnx
from dfq_plugin.validation.accuracy import onnx_logits, torch_logits
from dfq_plugin.validation.runtime import open_session
from integration_tests.conftest import Maker
from integration_tests.graphs import Graph
from integration_tests.networks import NETWORKS, SHAPE, images

everywhere = pytest.mark.parametrize("name", NETWORKS)
at_any_bits = pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 4)])


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
    graph = Graph(make(name).path)
    (pool,) = graph.of_type("GlobalAveragePool")
    assert graph.dequantizer(pool, 0).op_type == "DequantizeLinear"


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


@pytest.mark.parametrize(("name", "count"), [("plain", 2), ("sequential", 1)])
def test_max_pool_reads_codes(name: str, count: int, make: Maker) -> None:
    graph = Graph(make(name, 4, 4).path)
    pools = graph.of_type("MaxPool")
    makers = [graph.maker(pool.input[0]) for pool in pools]
    assert [maker is not None and maker.op_type in ("QuantizeLinear", "Clip") for maker in makers] == [True] * count


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


def test_bias_is_put_on_its_grid_before_it_is_written(make: Maker, tmp_path: Path) -> None:
    student = copy.deepcopy(make("sequential", 4, 4).student)
    layer = student.layers[-1]
    assert layer.bias is not None
    bias = student.network.get_parameter(layer.bias)
    bias.data += 0.0123
    between = bias.detach().clone()
    graph = Graph(export_onnx(student, tmp_path / "model.onnx").path)
    (gemm,) = graph.of_type("Gemm")
    written = graph.dequantizer(gemm, 2)
    values = graph.array(written.input[0]) * graph.array(written.input[1])
    assert not torch.equal(bias, between)
    assert np.allclose(bias.detach(), values, rtol=0, atol=1e-6)
