"""The census: what onnxruntime makes of a file when it loads it, and what the report of a float layer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dfq_plugin.config import ExportSettings, ValidateSettings
from dfq_plugin.errors import ValidationError
from dfq_plugin.export import export_float
from dfq_plugin.validation import validate
from dfq_plugin.validation.census import FloatNode, require_integer, take_census
from dfq_plugin.validation.parity import compare, require_equal
from dfq_plugin.validation.reasons import WEIGHT_ONLY
from dfq_plugin.validation.runtime import load_proto, open_session, run
from dfq_plugin.validation.speed import measure
from integration_tests.conftest import Maker
from integration_tests.graphs import GraphBuilder
from integration_tests.networks import NETWORKS, SHAPE, images

WEIGHT, STEPS = np.ones((4, 3, 3, 3)), np.full(4, 0.01)


def convolution(path: Path, *, quantized_output: bool) -> Path:
    graph = GraphBuilder(*SHAPE)
    source = graph.requantize("images", 1 / 32, 128)
    result = graph.node("Conv", source, graph.weight(WEIGHT, STEPS), name="the_layer")
    if quantized_output:
        result = graph.requantize(result, 1 / 16, 128)
    else:
        result = graph.node("Exp", result, name="the_float_operator")
    return graph.save(path, result)


def test_quantized_convolution_runs_on_an_integer_kernel(tmp_path: Path) -> None:
    census = take_census(convolution(tmp_path / "model.onnx", quantized_output=True))
    assert (census.integer, census.float, census.float_nodes) == (1, 0, ())
    assert (census.products_asked, census.products_integer) == (1, 1)
    assert census.by_type["QLinearConv"] == 1
    require_integer(census, "model.onnx")


def test_convolution_without_quantized_output_is_refused_by_name(tmp_path: Path) -> None:
    path = convolution(tmp_path / "model.onnx", quantized_output=False)
    census = take_census(path)
    assert (census.products_asked, census.products_integer) == (1, 0)
    assert {node.op_type for node in census.float_nodes} == {"Conv", "Exp"}
    with pytest.raises(ValidationError) as caught:
        require_integer(census, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 1 of 1 quantized layers run in float on onnxruntime.")
    assert "Conv the_layer: its output is not quantized: Exp the_float_operator reads it in float" in message
    assert message.endswith("Set validate.require_integer to false to accept this.")
    assert caught.value.exit_code == 4


def test_layer_whose_input_is_float_was_not_asked_for(tmp_path: Path) -> None:
    graph = GraphBuilder(*SHAPE)
    result = graph.node("Conv", "images", graph.weight(WEIGHT, STEPS), name="the_layer")
    path = graph.save(tmp_path / "model.onnx", graph.requantize(result, 1 / 16, 128))
    census = take_census(path)
    assert (census.products_asked, census.products_integer, census.float) == (0, 0, 1)
    assert census.float_nodes[0].reason == "its input comes in float from the network's input"
    require_integer(census, path)


def island(path: Path, op_type: str, **attributes: Any) -> FloatNode:
    """The float operator between two quantized tensors, as the census sees it."""
    graph = GraphBuilder(*SHAPE)
    inputs = {
        "LayerNormalization": [graph.constant(np.ones(16), np.float32)],
        "Resize": ["", graph.constant([1, 1, 1.5, 1.5], np.float32)],
        "ConvTranspose": [graph.weight(np.ones((3, 2, 2, 2)), np.full(3, 0.01))],
    }.get(op_type, [])
    source = graph.requantize("images", 1 / 32, 128)
    result = graph.node(op_type, source, *inputs, name="the_island", **attributes)
    census = take_census(graph.save(path, graph.requantize(result, 1 / 16, 128)))
    assert (census.products_asked, census.float) == (0, len(census.float_nodes))
    require_integer(census, path)
    return census.float_nodes[-1]


@pytest.mark.parametrize("op_type", ["LayerNormalization", "Gelu", "HardSwish", "HardSigmoid", "ConvTranspose", "Tanh"])
def test_float_island_is_named_with_its_reason(op_type: str, tmp_path: Path) -> None:
    node = island(tmp_path / "model.onnx", op_type)
    assert node.name == "the_island"
    assert node.reason == f"onnxruntime has no integer kernel for {op_type}"


def test_linear_resize_is_named_with_its_mode(tmp_path: Path) -> None:
    node = island(tmp_path / "model.onnx", "Resize", mode="linear")
    assert node.reason == "onnxruntime has no integer kernel for linear Resize"


def test_pool_at_the_end_is_said_to_hand_out_float(tmp_path: Path) -> None:
    graph = GraphBuilder(*SHAPE)
    result = graph.node("GlobalAveragePool", graph.requantize("images", 1 / 32, 128), name="the_pool")
    census = take_census(graph.save(tmp_path / "model.onnx", result))
    expected = FloatNode("the_pool", "GlobalAveragePool", "its output is handed out in float as the network's output")
    assert census.float_nodes == (expected,)


def test_product_that_two_quantizers_read_is_refused(tmp_path: Path) -> None:
    graph = GraphBuilder(*SHAPE)
    product = graph.node("Conv", graph.requantize("images", 1 / 32, 128), graph.weight(WEIGHT, STEPS), name="the_layer")
    branches = [graph.requantize(product, step, 128) for step in (1 / 16, 1 / 8)]
    path = graph.save(tmp_path / "model.onnx", graph.requantize(graph.node("Add", *branches), 1 / 8, 128))
    census = take_census(path)
    with pytest.raises(ValidationError, match="Conv the_layer: its output has several readers"):
        require_integer(census, path)


@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_float_convolution_in_a_blocked_layout_keeps_its_name(relu: bool, tmp_path: Path) -> None:
    graph = GraphBuilder(16, 8, 8)
    result = graph.node("Conv", "images", graph.constant(np.ones((16, 16, 3, 3)), np.float32), name="the_layer")
    result = graph.node("Relu", result) if relu else result
    census = take_census(graph.save(tmp_path / "model.onnx", result))
    assert [(node.name, node.op_type) for node in census.float_nodes] == [("the_layer", "Conv")]


@pytest.mark.parametrize("matrix", ["MatMul", "MatMul and Add"])
def test_weight_only_product_keeps_its_activations_in_float(matrix: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    codes, steps = random.integers(-127, 128, (64, 5)), random.uniform(0.001, 0.01, 5).astype(np.float32)
    graph = GraphBuilder(64)
    result = graph.node("MatMul", "images", graph.weight(codes, steps, axis=1), name="the_layer")
    if matrix == "MatMul and Add":
        result = graph.node("Add", result, graph.constant(np.zeros(5), np.float32))
    path = graph.save(tmp_path / "model.onnx", result)
    census = take_census(path)
    assert census.float_nodes == (FloatNode("the_layer", "MatMulNBits", WEIGHT_ONLY),)
    require_integer(census, path)
    batch = random.standard_normal((100, 64)).astype(np.float32)
    exact = batch.astype(np.float64) @ (codes * steps.astype(np.float64))
    assert np.abs(run(open_session(path), batch)[0] - exact).max() < 1e-5 * np.abs(exact).max()


def test_weights_in_a_file_of_their_own_are_found(make: Maker, tmp_path: Path) -> None:
    made = make("sequential", 4, 4)
    path = tmp_path / "large.onnx"
    onnx.save(onnx.load(made.path), path, save_as_external_data=True, location="large.data", size_threshold=100)
    assert take_census(path) == take_census(made.path)
    verdict = validate(path, made.student, images(8), ValidateSettings(latency_runs=0))
    assert verdict.parity == validate(made.path, made.student, images(8), ValidateSettings(latency_runs=0)).parity
    assert verdict.parity.logits_equal is True
    assert verdict.size_bytes == path.stat().st_size + (tmp_path / "large.data").stat().st_size


@pytest.mark.parametrize("name", NETWORKS)
def test_float_file_has_no_integer_operator_and_nothing_to_prove(name: str, tmp_path: Path) -> None:
    path = export_float(NETWORKS[name]().eval(), SHAPE, tmp_path / "float.onnx", ExportSettings()).path
    census = take_census(path)
    assert (census.integer, census.products_asked, census.products_integer) == (0, 0, 0)
    assert census.float >= 3
    parity = compare(path, images(2).numpy(), 1)
    with pytest.raises(ValidationError, match="no tensor of codes could be compared, so nothing is proven"):
        require_equal(parity, path)


def test_every_operator_of_a_student_is_integer(make: Maker) -> None:
    census = take_census(make("mobile", 4, 4).path)
    assert (census.float, census.products_asked, census.products_integer) == (0, 6, 6)
    counts = census.by_type
    assert (counts["QLinearConv"], counts["QGemm"], counts["QLinearAdd"]) == (5, 1, 1)
    assert census.integer == sum(
        count for kind, count in counts.items() if kind not in ("QuantizeLinear", "Transpose", "Reshape")
    )


def strip_output_quantizer(source: Path, target: Path) -> str:
    """Hand out the first convolution's sum in float, through a Sigmoid; give its name."""
    model = load_proto(source)
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    relu = next(node for node in model.graph.node if conv.output[0] in node.input)
    relu.op_type = "Sigmoid"
    onnx.save(model, target)
    return str(conv.name)


@pytest.mark.parametrize("accepted", [False, True], ids=["refused", "accepted"])
def test_validate_refuses_a_float_layer_unless_told_to_accept_it(accepted: bool, make: Maker, tmp_path: Path) -> None:
    made = make("sequential", 8, 8)
    broken = tmp_path / "broken.onnx"
    name = strip_output_quantizer(made.path, broken)
    settings = ValidateSettings(require_integer=not accepted, latency_runs=0)
    if accepted:
        verdict = validate(broken, made.student, images(8), settings)
        assert verdict.census.products_integer < verdict.census.products_asked
        assert verdict.parity.tensors_taken > 0
        assert verdict.parity.mismatches == 0
    else:
        with pytest.raises(ValidationError, match=rf"1 of 3 quantized layers run in float.*Conv {name}: "):
            validate(broken, made.student, images(8), settings)


def test_validate_measures_size_speed_and_noise(make: Maker, tmp_path: Path) -> None:
    coarse, fine = make("sequential", 8, 4), make("sequential", 8, 8)
    plain = export_float(fine.teacher, SHAPE, tmp_path / "float.onnx", ExportSettings())
    settings = ValidateSettings(latency_runs=3)
    verdict = validate(fine.path, fine.student, images(8), settings, plain.path)
    assert verdict.size_bytes == fine.path.stat().st_size
    assert verdict.latency is not None
    assert verdict.latency.runs == 3
    assert min(verdict.latency.float_ms, verdict.latency.integer_ms) > 0
    noise = {
        name: dict(validate(made.path, made.student, images(8), settings).sqnr_db)
        for name, made in (("coarse", coarse), ("fine", fine))
    }
    assert noise["fine"].keys() == {site.layer for site in fine.student.sites if site.kind == "activation"}
    assert all(noise["fine"][layer] >= noise["coarse"][layer] - 1e-9 for layer in noise["fine"])
    assert min(noise["coarse"].values()) < min(noise["fine"].values()) - 6
    assert all(quantizer.is_enabled_quantization() for _, quantizer in fine.student.quantizers())
    assert not any(parameter.requires_grad for parameter in fine.student.parameters())


def test_latency_is_a_median_that_counts_no_warm_up(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("sequential").path
    times = iter([*[1000.0] * 10, 1.0, 10.0, 2.0, 30.0, 300.0, 20.0])  # in turn: float, integer
    monkeypatch.setattr("dfq_plugin.validation.speed._time", lambda _session, _image: next(times))
    latency = measure(path, path, SHAPE, 3)
    assert (latency.float_ms, latency.integer_ms, latency.runs) == (2.0, 20.0, 3)


def test_file_that_onnxruntime_refuses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ValidationError, match=rf"onnxruntime cannot load {path}"):
        open_session(path)
