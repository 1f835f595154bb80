"""The census: what onnxruntime makes of a file when it loads it, and what the report of a float layer says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from dfq_plugin.config import ExportSettings, ValidateSettings
from dfq_plugin.errors import ValidationError
from dfq_plugin.export import export_float
from dfq_plugin.validation import validate
from dfq_plugin.validation.census import require_integer, take_census
from dfq_plugin.validation.parity import compare, require_equal
from dfq_plugin.validation.runtime import load_proto, open_session
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
    assert "Conv the_layer: its output is not quantized in a form that an integer kernel takes" in message
    assert message.endswith("Set validate.require_integer to false to accept this.")
    assert caught.value.exit_code == 4


def test_layer_whose_input_is_float_was_not_asked_for(tmp_path: Path) -> None:
    graph = GraphBuilder(*SHAPE)
    result = graph.node("Conv", "images", graph.weight(WEIGHT, STEPS), name="the_layer")
    path = graph.save(tmp_path / "model.onnx", graph.requantize(result, 1 / 16, 128))
    census = take_census(path)
    assert (census.products_asked, census.products_integer, census.float) == (0, 0, 1)
    assert "not asked to be quantized" in census.float_nodes[0].reason
    require_integer(census, path)


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
