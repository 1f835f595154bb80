"""Which operators are quantized: ignored scopes, the input, shapes of networks, target devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nncf.quantization.algorithms.pipeline import Pipeline
from nncf.quantization.algorithms.post_training.pipeline import create_ptq_pipeline
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.errors import ConfigError
from dfq_plugin.quantization import nncf_steps
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.quantization.networks import Branches, filled
from integration_tests.students import by_layer, distance, make_set, student_of

pytestmark = pytest.mark.usefixtures("kernels")


class TestScopes:
    @pytest.mark.parametrize(
        "scopes",
        [
            {"names": ["conv2/conv2d/0"]},
            {"names": ["TinyNetwork/NNCFConv2d[conv2]/conv2d_0"]},
            {"patterns": ["conv2"]},
            {"patterns": [".*NNCFConv2d\\[conv2\\]"]},
        ],
    )
    def test_an_ignored_layer_stays_in_float(self, scopes: dict[str, Any]) -> None:
        student = student_of(tiny_teacher(), ignored_scopes=scopes)
        layer = next(layer for layer in student.layers if layer.operator == "conv2/conv2d/0")
        assert layer.weight_quantizer is None
        assert "conv2/conv2d/0" not in by_layer(student, "weight")
        assert set(by_layer(student, "weight")) == {"conv1/conv2d/0", "fc/linear/0"}

    def test_bits_of_a_batchnorm_are_those_of_the_layer_it_was_folded_into(self) -> None:
        old = "TinyNetwork/NNCFBatchNorm2d[bn2]/batch_norm_0"
        plan = student_of(tiny_teacher(), bit_overrides={old: 3}).plan
        assert [(entry.layer, entry.applied) for entry in plan if entry.reason == "override"] == [("conv2/conv2d/0", 3)]

    def test_ignored_types_stay_in_float(self) -> None:
        student = student_of(tiny_teacher(), ignored_scopes={"types": ["conv2d"]})
        assert set(by_layer(student, "weight")) == {"fc/linear/0"}

    @pytest.mark.parametrize("scopes", [{"names": ["conv9"]}, {"patterns": ["layer1"]}, {"types": ["lstm"]}])
    def test_a_scope_that_matches_nothing_is_a_config_error(self, scopes: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            student_of(tiny_teacher(), ignored_scopes=scopes)
        student_of(tiny_teacher(), ignored_scopes={**scopes, "validate_scopes": False})

    @pytest.mark.parametrize(
        "fields", [{"quantize_inputs": False}, {"ignored_scopes": {"names": ["/nncf_model_input_0"]}}]
    )
    def test_the_input_stays_in_float_when_asked_to(self, fields: dict[str, Any]) -> None:
        student = student_of(tiny_teacher(), activation_range="min_max", **fields)
        assert "images" not in by_layer(student)
        assert not any(entry.layer == "images" for entry in student.plan)
        assert student.layers[0].input_quantizer is None
        assert student.layers[1].input_quantizer is not None
        assert distance(student, tiny_teacher(), make_set().images) < 0.03

    def test_the_input_of_a_second_branch_is_known_when_the_first_is_in_float(self) -> None:
        student = student_of(filled(Branches()), ignored_scopes={"names": ["left"]}, activation_bits=4)
        site = by_layer(student)["images"]
        assert site.is_input
        assert "right/conv2d/0" in site.readers
        assert {entry.applied for entry in student.plan if entry.reason == "network input"} == {8}

    def test_only_weights_are_quantized_when_activations_have_no_bits(self) -> None:
        student = student_of(tiny_teacher(), weight_bits=4, activation_bits=None)
        assert {site.kind for site in student.sites} == {"weight"}
        assert len(student.sites) == len(student.layers)
        assert all(layer.input_quantizer is None for layer in student.layers)


class TestStructures:
    def test_parts_of_a_concatenation_share_a_grid_and_its_bits(self) -> None:
        student = student_of(filled(Branches()), weight_bits=4, activation_bits=4)
        site = by_layer(student)["/relu/0"]
        assert site.others == ("/relu/1",)
        assert student.quantizer(site.name).num_bits == 4
        last = next(layer for layer in student.layers if layer.operator == "last/conv2d/0")
        assert last.input_quantizer == site.name

    @pytest.mark.parametrize("loops", [False, True])
    def test_a_network_that_is_a_sequence_of_layers_is_quantized(self, loops: bool) -> None:
        class Loop(nn.Module):
            def __init__(self, layers: nn.Sequential) -> None:
                super().__init__()
                for name, layer in layers.named_children():
                    self.add_module(f"layer{name}", layer)

            def forward(self, pixels: Tensor) -> Tensor:
                for layer in self.children():
                    pixels = layer(pixels)
                return pixels

        teacher = tiny_teacher()
        order = ("conv1", "bn1", "relu1", "conv2", "bn2", "relu2", "pool", "fc")
        layers: list[nn.Module] = [teacher.get_submodule(name) for name in order]
        sequence = nn.Sequential(*layers[:-1], nn.Flatten(), layers[-1]).eval()
        student = student_of(Loop(sequence).eval() if loops else sequence, activation_range="min_max")
        first = "layer0/conv2d/0" if loops else "0/conv2d/0"
        assert student.layers[0].operator == first
        assert [entry.applied for entry in student.plan] == [8] * 7
        assert distance(student, teacher, make_set().images) < 0.03

    def test_a_layer_that_runs_twice_has_a_weight_quantizer_each_time(self) -> None:
        class Twice(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 4)

            def forward(self, pixels: Tensor) -> Tensor:
                high = F.relu(self.conv(F.relu(self.conv(pixels))))
                logits: Tensor = self.fc(high.mean((2, 3)))
                return logits

        student = student_of(Twice().eval(), weight_bits=4, first_last_bits=None)
        assert [layer.operator for layer in student.layers] == ["conv/conv2d/0", "conv/conv2d/1", "fc/linear/0"]
        assert len({layer.weight_quantizer for layer in student.layers}) == 3
        assert torch.isfinite(student(make_set().images)).all()

    def test_grouped_transposed_convolutions_are_quantized(self) -> None:
        class Transposed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.up = nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 3, groups=2)
                self.norm, self.fc = nn.BatchNorm2d(6), nn.Linear(6, 4)

            def forward(self, pixels: Tensor) -> Tensor:
                high = F.relu(self.norm(self.up(F.relu(self.conv(pixels)))))
                logits: Tensor = self.fc(high.mean((2, 3)))
                return logits

        teacher = filled(Transposed())
        student = student_of(teacher, weight_bits=4)
        assert student.grid(by_layer(student, "weight")["up/conv_transpose2d/0"]).axis == 1
        assert distance(student, teacher, make_set().images) < 0.3


class TestTargetDevice:
    def test_reaches_nncf(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []
        create = create_ptq_pipeline

        def note(**arguments: Any) -> Pipeline:
            seen.append(arguments["target_device"])
            return create(**arguments)

        monkeypatch.setattr(nncf_steps, "create_ptq_pipeline", note)
        for name in ("ANY", "CPU", "GPU", "NPU"):
            student = student_of(tiny_teacher(), device=name, activation_range="min_max")
            assert distance(student, tiny_teacher(), make_set().images) < 0.03
        assert [device.value for device in seen] == ["ANY", "CPU", "GPU", "NPU"]

    def test_must_be_one_that_nncf_knows(self) -> None:
        with pytest.raises(ConfigError, match="no target_device 'TPU'; choose from ANY"):
            student_of(tiny_teacher(), device="TPU")
