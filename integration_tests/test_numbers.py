"""NaN and Inf are caught in the stage where they arise, with the layer's name, and no file is made of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import dfq_plugin as dfq
from dfq_plugin.config import FinetuneSettings, QuantizeSettings
from dfq_plugin.errors import DFQError, ExportError, InputError, ProviderContractError, ValidationError
from dfq_plugin.finetuning import finetune
from dfq_plugin.quantization import quantize, reconstruction
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.validation.parity import compare

pytestmark = pytest.mark.usefixtures("kernels")

SHAPE = (3, 8, 8)
NAN, INF = float("nan"), float("inf")


def broken(name: str, value: float, network: nn.Module | None = None) -> nn.Module:
    network = network or tiny_teacher()
    network.state_dict()[name].view(-1)[0] = value
    return network


def images_of(network: nn.Module, **more: Any) -> SyntheticSet:
    return dfq.generate(network, input_shape=SHAPE, cache=False, **{"num_samples": 4, "provider": "noise", **more})


class TestTeacher:
    @pytest.mark.parametrize(
        ("name", "value"),
        [("conv2.weight", NAN), ("bn1.running_mean", INF), ("bn2.running_var", NAN), ("fc.bias", -INF)],
    )
    def test_weights_and_statistics(self, name: str, value: float) -> None:
        with pytest.raises(InputError, match=rf"TinyNetwork holds numbers that are not finite, in {name}"):
            read_facts(broken(name, value), SHAPE)

    def test_variance_below_zero(self) -> None:
        with pytest.raises(InputError, match=r"bn2\.running_var \(below zero\)"):
            read_facts(broken("bn2.running_var", -1.0), SHAPE)

    def test_output(self) -> None:
        network = tiny_teacher()
        network.bn1.weight.data.mul_(1e38)
        network.bn1.bias.data.mul_(1e38)
        with pytest.raises(InputError, match="not finite for a black image; the first layer is pool"):
            read_facts(network, SHAPE)

    def test_channels_that_are_dead_are_told_and_no_error(
        self, job: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        job["model"]["source"] = "python:integration_tests.test_numbers:network_with_dead_channels"
        with caplog.at_level(logging.WARNING, logger="nncf.dfq_plugin.teacher"):
            report = dfq.run({**job, "validate": {"latency_runs": 0, "held_out": 0}})
        assert "1 (1 of 8 channels without variance)" in caplog.text
        assert "4 (1 of 16 channels have no weight)" in caplog.text
        assert report.parity["mismatches"] == 0


def network_with_dead_channels() -> nn.Module:
    from integration_tests.networks import sequential  # noqa: PLC0415 - the config names this function

    network = sequential()
    network.state_dict()["1.running_var"][0] = 0.0
    network.state_dict()["4.weight"][2] = 0.0
    return network


class TestSynthesis:
    @pytest.mark.parametrize("provider", ["zeroq", "intraq", "deepinversion", "gznq"])
    def test_zero_variance_gives_finite_images(self, provider: str) -> None:
        network = broken("bn1.running_var", 0.0)
        found = images_of(network, provider=provider, params={"steps": 2})
        assert torch.isfinite(found.images).all()

    def test_pixels(self) -> None:
        with pytest.raises(ProviderContractError, match=r"step 1: the loss is not finite.*First layer.*: \w+"):
            images_of(tiny_teacher(), provider="zeroq", params={"steps": 3, "learning_rate": 1e30})

    def test_exploding_generator(self) -> None:
        params = {"steps": 6, "steps_per_epoch": 3, "batch_size": 4, "warmup_epochs": 0, "learning_rate": 1e30}
        with pytest.raises(ProviderContractError, match=r"gdfq.*(not finite)"):
            images_of(tiny_teacher(), provider="gdfq", params=params)


class TestQuantize:
    def test_images(self) -> None:
        synthetic = SyntheticSet(torch.full((4, *SHAPE), NAN), None, None, describe_run("mine", {}, 0, ""))
        with pytest.raises(InputError, match="images: its values on the synthetic images are not finite"):
            quantize(tiny_teacher(), synthetic, QuantizeSettings())

    def test_reconstruction(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loss = reconstruction._loss
        monkeypatch.setattr(reconstruction, "_loss", lambda *given: loss(*given) * NAN)
        settings = QuantizeSettings.model_validate({"weight_bits": 4, "reconstruction": {"steps": 2}})
        with pytest.raises(InputError, match="flatten/0: its error is not finite"):
            quantize(tiny_teacher(), images_of(tiny_teacher()), settings)


class TestFinetune:
    def test_loss_names_the_layer(self) -> None:
        teacher = tiny_teacher()
        student = quantize(teacher, images_of(teacher), QuantizeSettings())
        student.network.get_parameter("network.conv2.weight").data[0] = NAN
        with pytest.raises(
            InputError, match=r"The loss is not finite in epoch 0; lower finetune\.lr .* layer .* is network\.conv2"
        ):
            finetune(teacher, student, images_of(teacher), FinetuneSettings(epochs=1, batch_size=2))


class TestExport:
    def test_student_names_the_tensor_and_leaves_no_file(self, tmp_path: Path) -> None:
        teacher = tiny_teacher()
        student = quantize(teacher, images_of(teacher), QuantizeSettings())
        student.network.get_parameter("network.conv2.weight").data[0] = NAN
        with pytest.raises(ExportError, match=r"not finite, in network\.conv2\.weight"):
            dfq.export_onnx(student, tmp_path / "model.onnx")
        assert list(tmp_path.iterdir()) == []


class TestValidate:
    @pytest.mark.parametrize("factor", [NAN, INF])
    def test_logits(self, factor: float, tmp_path: Path) -> None:
        constants = {"step": np.float32(0.1), "zero": np.uint8(128), "factor": np.float32(factor)}
        nodes = [
            helper.make_node("QuantizeLinear", ["images", "step", "zero"], ["codes"]),
            helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["values"]),
            helper.make_node("Mul", ["values", "factor"], ["scaled"]),
            helper.make_node("Flatten", ["scaled"], ["logits"]),
        ]
        images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", *SHAPE])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", None])
        weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        model = helper.make_model(
            helper.make_graph(nodes, "g", [images], [logits], weights),
            opset_imports=[helper.make_opsetid("", 21)],
            ir_version=10,
        )
        onnx.save(model, tmp_path / "model.onnx")
        with pytest.raises(ValidationError, match=r"model\.onnx: it gives logits that are not finite"):
            compare(tmp_path / "model.onnx", np.ones((2, *SHAPE), np.float32), 100)


DIVERGING = {"finetune": "finetune.lr=1e30", "synthesis": 'calibration.params={"steps": 3, "learning_rate": 1e30}'}


@pytest.mark.parametrize("setting", DIVERGING.values(), ids=DIVERGING)
def test_diverged_run_leaves_no_model(setting: str, job: dict[str, Any]) -> None:
    job["calibration"] = {"provider": "zeroq", "num_samples": 4, "params": {"steps": 2}}
    job["finetune"] = {"epochs": 2, "batch_size": 2}
    with pytest.raises(DFQError, match="not finite"):
        dfq.run(job, [setting])
    assert {path.name for path in Path(job["output_dir"]).iterdir()} <= {"config.json", "synthetic.safetensors"}
