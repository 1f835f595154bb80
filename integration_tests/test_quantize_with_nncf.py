"""Students as NNCF really makes them: codes, ranges, scopes, and what must stay untouched."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from nncf.common.logging.track_progress import track
from nncf.quantization.algorithms.fast_bias_correction.algorithm import FastBiasCorrection
from nncf.quantization.algorithms.min_max.algorithm import MinMaxQuantization
from nncf.quantization.algorithms.pipeline import Pipeline
from nncf.quantization.algorithms.post_training.pipeline import create_ptq_pipeline
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.errors import ConfigError, InputError, UnsupportedModelError
from dfq_plugin.network_state import Snapshot
from dfq_plugin.quantization import nncf_steps, quantize, ranges
from dfq_plugin.student import Grid, QuantizerSite, Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.quantization.networks import Branches, asymmetric, filled, symmetric

pytestmark = pytest.mark.usefixtures("kernels")


def make_set(count: int = 24, seed: int = 0) -> SyntheticSet:
    generator = torch.Generator().manual_seed(seed)
    colour = torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1
    images = (torch.randn(count, 3, 8, 8, generator=generator) + colour).clamp(-2, 2)
    return SyntheticSet(images, None, None, describe_run("noise", {}, seed, "any"))


def student_of(
    teacher: nn.Module, synthetic: SyntheticSet | None = None, device: str = "ANY", **fields: Any
) -> Student:
    settings = QuantizeSettings.model_validate({"batch_size": 8, **fields})
    return quantize(teacher, synthetic or make_set(), settings, device)


@cache
def tiny_student(bits: int = 8, preset: str = "performance", choice: str = "auto") -> Student:
    """Everything but the image at the same number of bits."""
    fields: dict[str, Any] = {"weight_range": choice, "activation_range": choice, "preset": preset}
    everywhere: dict[str, Any] = {
        "weight_bits": bits,
        "activation_bits": bits,
        "residual_bits": bits,
        "first_last_bits": None,
    }
    return student_of(tiny_teacher(), **fields, **everywhere)


def weights_of(student: Student) -> dict[str, tuple[QuantizerSite, Tensor]]:
    """Each quantized weight in float, by operator."""
    layers = [layer for layer in student.layers if layer.weight_quantizer is not None]
    return {
        layer.operator: (student.site(str(layer.weight_quantizer)), student.network.get_parameter(layer.weight))
        for layer in layers
    }


def by_layer(student: Student, kind: str = "activation") -> dict[str, QuantizerSite]:
    return {site.layer: site for site in student.sites if site.kind == kind}


def outputs_of(student: Student, images: Tensor) -> dict[str, Tensor]:
    """What comes out of each activation quantizer, by operator."""
    seen: dict[str, Tensor] = {}
    handles = []
    for layer, site in by_layer(student).items():

        def keep(_module: nn.Module, _inputs: Any, output: Tensor, layer: str = layer) -> None:
            seen[layer] = output

        handles.append(student.quantizer(site.name).register_forward_hook(keep))
    student(images)
    for handle in handles:
        handle.remove()
    return seen


def distance(student: Student, teacher: nn.Module, images: Tensor) -> float:
    """Error of the logits, relative to their size."""
    with torch.no_grad():
        expected = teacher(images)
        return float((student(images) - expected).norm() / expected.norm())


def assert_same_rule(grid: Grid, quantizer: nn.Module, values: Tensor) -> None:
    """What export relies on, step * (code - zero point), against NNCF's own kernel."""
    shape = [1] * values.ndim
    if grid.axis is not None:
        shape[grid.axis] = -1
    step, zero = grid.step.reshape(shape), grid.zero_point.reshape(shape)
    exact = values / step
    codes = (exact.round() + zero).clamp(grid.low, grid.high)
    clear = (exact - exact.floor() - 0.5).abs() > 1e-3  # halfway between two codes float rounding decides
    assert clear.float().mean() > 0.99
    assert torch.allclose((step * (codes - zero))[clear], quantizer(values)[clear], atol=1e-5)


class TestBits:
    @pytest.mark.parametrize("bits", range(2, 9))
    def test_weights_hold_that_many_codes_and_no_more(self, bits: int) -> None:
        student = tiny_student(bits)
        for site, weight in weights_of(student).values():
            for row in student.quantizer(site.name)(weight).flatten(1):
                codes = len(row.unique())
                assert codes <= 2**bits - 1  # symmetric around zero
                assert codes >= min(2**bits - 1, 3) - 1

    @pytest.mark.parametrize("preset", ["performance", "mixed"])
    @pytest.mark.parametrize("bits", [2, 3, 4, 6])
    def test_activations_hold_that_many_codes_and_no_more(self, bits: int, preset: str) -> None:
        outputs = outputs_of(tiny_student(bits, preset), make_set().images)
        image = outputs.pop("images")
        assert 2**7 < len(image.unique()) <= 2**8
        assert len(outputs) == 3
        for values in outputs.values():
            assert 2 <= len(values.unique()) <= 2**bits

    def test_plan_says_what_the_quantizers_have(self) -> None:
        student = student_of(tiny_teacher(), weight_bits=3, activation_bits=5)
        assert {entry.name: entry.applied for entry in student.plan} == {
            site.name: quantizer.num_bits for site, quantizer in student.quantizers()
        }
        assert [entry.applied for entry in student.plan if entry.kind == "weight"] == [8, 3, 8]

    def test_overrides_reach_their_quantizers_under_names_of_both_nncf_generations(self) -> None:
        overrides = {"TinyNetwork/NNCFConv2d[conv2]/conv2d_0|WEIGHT": 3, "relu1": 5, "/nncf_model_input_0|OUTPUT": 6}
        student = student_of(tiny_teacher(), bit_overrides=overrides)
        assert {entry.layer: entry.applied for entry in student.plan if entry.reason == "override"} == {
            "conv2/conv2d/0": 3,
            "relu1/relu/0": 5,
            "images": 6,
        }
        (site, weight) = weights_of(student)["conv2/conv2d/0"]
        assert len(student.quantizer(site.name)(weight)[0].unique()) <= 7

    def test_an_override_that_matches_nothing_is_an_error(self) -> None:
        with pytest.raises(ConfigError, match="'conv7' matches no quantizer"):
            student_of(tiny_teacher(), bit_overrides={"conv7": 4})


class TestGridAgainstNNCF:
    """``step * (code - zero_point)`` is what NNCF's own kernels compute."""

    VALUES = torch.randn(3, 5, 7, 7, generator=torch.Generator().manual_seed(9)) * 2

    @pytest.mark.parametrize("bits", [2, 4, 8])
    @pytest.mark.parametrize(
        ("make", "kind"),
        [
            pytest.param(lambda bits: symmetric(1.7, bits=bits), "activation", id="signed"),
            pytest.param(lambda bits: symmetric(1.7, bits=bits, signed=False), "activation", id="unsigned"),
            pytest.param(lambda bits: symmetric(-1.7, bits=bits), "activation", id="trained_to_a_negative_scale"),
            pytest.param(lambda bits: asymmetric(-0.6, 2.1, bits=bits), "activation", id="asymmetric"),
            pytest.param(lambda bits: asymmetric(0.0, 2.1, bits=bits), "activation", id="asymmetric_from_zero"),
            pytest.param(lambda bits: asymmetric(-2.1, 0.0, bits=bits), "activation", id="asymmetric_to_zero"),
            pytest.param(lambda bits: asymmetric(0.4, 2.1, bits=bits), "activation", id="asymmetric_above_zero"),
            pytest.param(
                lambda bits: symmetric(torch.rand(3, 1, 1, 1) + 0.5, bits=bits, narrow=True), "weight", id="weight"
            ),
            pytest.param(
                lambda bits: symmetric(torch.rand(1, 5, 1, 1) + 0.5, bits=bits, narrow=True), "weight", id="transposed"
            ),
            pytest.param(
                lambda bits: symmetric(torch.rand(3, 1, 1, 1) + 0.5, bits=bits + 1, narrow=True, half=True),
                "weight",
                id="half_range",
            ),
        ],
    )
    def test_of_every_kind_of_quantizer(self, make: Callable[[int], nn.Module], kind: Any, bits: int) -> None:
        with torch.random.fork_rng():
            quantizer = make(bits).requires_grad_(requires_grad=False)
        site = QuantizerSite("post_hooks.images__0.0", kind, "images", ("conv",), multiplied=True)
        student = copy.deepcopy(tiny_student())
        student.replace_quantizer(site.name, quantizer)
        grid = student.grid(site)
        assert_same_rule(grid, quantizer, self.VALUES)
        assert grid.high - grid.low + 1 == quantizer.levels
        assert quantizer(torch.zeros(3, 5, 1, 1)).abs().max() < 1e-6  # zero is one of the values

    @pytest.mark.parametrize("preset", ["performance", "mixed"])
    @pytest.mark.parametrize("bits", [3, 8])
    def test_of_a_whole_student(self, bits: int, preset: str) -> None:
        student = tiny_student(bits, preset)
        for site, quantizer in student.quantizers():
            values = self.VALUES
            if site.kind == "weight":
                values = weights_of(student)[site.layer][1]
            assert_same_rule(student.grid(site), quantizer, values)


class TestRanges:
    @pytest.mark.parametrize("preset", ["performance", "mixed"])
    @pytest.mark.parametrize("choice", ["min_max", "mse"])
    def test_eight_bits_are_near_the_teacher(self, preset: str, choice: str) -> None:
        assert distance(tiny_student(8, preset, choice), tiny_teacher(), make_set().images) < 0.03

    @pytest.mark.parametrize("preset", ["performance", "mixed"])
    def test_search_is_nearer_to_the_teacher_than_the_full_range_at_two_bits(self, preset: str) -> None:
        images, teacher = make_set(seed=1).images, tiny_teacher()
        searched = distance(tiny_student(2, preset), teacher, images)
        assert searched < 0.9 * distance(tiny_student(2, preset, "min_max"), teacher, images)

    @pytest.mark.parametrize("preset", ["performance", "mixed"])
    def test_search_fits_what_reaches_each_quantizer_in_the_float_network(self, preset: str) -> None:
        student, teacher, images = tiny_student(3, preset), tiny_teacher(), make_set().images
        with torch.no_grad():
            low = teacher.relu1(teacher.bn1(teacher.conv1(images)))
            high = teacher.relu2(teacher.bn2(teacher.conv2(low)))
        for layer, values in {"relu1/relu/0": low, "relu2/relu/0": high}.items():
            histogram = ranges.TensorHistogram()
            histogram.update(values)
            expected = ranges.search_tensor_scale(histogram, 0, 7) / 7
            assert student.grid(by_layer(student)[layer]).step.item() == pytest.approx(expected, rel=0.02)

    def test_auto_searches_below_eight_bits_only(self) -> None:
        for bits, same_as in ((8, "mean_min_max"), (4, "mse")):
            weights = "mse" if same_as == "mse" else "min_max"
            auto = tiny_student(bits)
            other = student_of(
                tiny_teacher(),
                weight_bits=bits,
                activation_bits=bits,
                residual_bits=bits,
                first_last_bits=None,
                weight_range=weights,
                activation_range=same_as,
            )
            for site in auto.sites:
                if not site.is_input:
                    assert torch.equal(auto.grid(site).step, other.grid(site).step), site.layer

    def test_asymmetric_search_reaches_below_zero_as_far_as_needed(self) -> None:
        class Signed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv1, self.conv2 = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

            def forward(self, pixels: Tensor) -> Tensor:
                logits: Tensor = self.conv2(F.elu(self.conv1(pixels))).mean((2, 3))
                return logits

        teacher = filled(Signed())
        student = student_of(teacher, activation_bits=4, first_last_bits=None, preset="mixed")
        grid = student.grid(by_layer(student)["/elu/0"])
        lowest = grid.step.item() * -grid.zero_point.item()
        assert -1.1 < lowest < -0.3  # ELU gives values down to -1
        assert 0 < grid.zero_point.item() < 15

    def test_images_beyond_the_number_asked_for_are_not_looked_at(self) -> None:
        synthetic = make_set(24)
        synthetic.images[8:] *= 100.0
        few = student_of(tiny_teacher(), synthetic, num_init_samples=8, activation_bits=4)
        reference = student_of(tiny_teacher(), make_set(24), num_init_samples=8, activation_bits=4)
        for site in few.sites:
            assert torch.equal(few.grid(site).step, reference.grid(site).step), site.layer
        all_of_them = student_of(tiny_teacher(), synthetic, activation_bits=4)
        image = by_layer(few)["images"]
        assert all_of_them.grid(image).step > 10 * few.grid(image).step

    def test_percentiles_narrow_the_range_and_nncf_keeps_its_own(self) -> None:
        before = copy.deepcopy(RangeEstimatorParametersSet.MEAN_QUANTILE)
        narrow = student_of(tiny_teacher(), activation_range="mean_percentile", percentiles=(5, 95))
        wide = student_of(tiny_teacher(), activation_range="min_max")
        assert before == RangeEstimatorParametersSet.MEAN_QUANTILE
        for layer, site in by_layer(narrow).items():
            assert narrow.grid(site).step < wide.grid(by_layer(wide)[layer]).step

    @pytest.mark.parametrize("choice", ["mean_min_max", "mean_no_outliers", "min_max"])
    def test_every_choice_gives_a_working_student(self, choice: str) -> None:
        student = student_of(tiny_teacher(), activation_range=choice)
        assert distance(student, tiny_teacher(), make_set().images) < 0.2

    def test_overflow_fix_uses_half_of_the_codes_of_eight_bit_weights_only(self) -> None:
        def most_codes(**fields: Any) -> dict[str, int]:
            student = student_of(tiny_teacher(), overflow_fix="enable", **fields)
            return {
                layer: int((weight / student.grid(site).step.reshape(-1, *[1] * (weight.ndim - 1))).abs().max().round())
                for layer, (site, weight) in weights_of(student).items()
            }

        eight = most_codes(weight_range="mse")
        assert max(eight.values()) <= 64
        assert most_codes(weight_bits=4, weight_range="min_max")["conv2/conv2d/0"] == 7


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
        site = by_layer(student)["right/conv2d/0"]
        assert site.is_input
        assert {entry.applied for entry in student.plan if entry.reason == "network input"} == {8}


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
                self.conv, self.up = nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 8, 3, groups=2)
                self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(8, 4)

            def forward(self, pixels: Tensor) -> Tensor:
                high = F.relu(self.norm(self.up(F.relu(self.conv(pixels)))))
                logits: Tensor = self.fc(high.mean((2, 3)))
                return logits

        teacher = Transposed().eval()
        assert distance(student_of(teacher), teacher, make_set().images) < 0.1


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


class TestQuiet:
    def test_nothing_but_log_lines_is_written_when_nobody_watches(self, capfd: pytest.CaptureFixture[str]) -> None:
        student_of(tiny_teacher(), num_init_samples=1000, bias_correction=True)
        written = "".join(capfd.readouterr())
        assert "Statistics collection" not in written
        assert "Fast Bias correction" not in written
        assert "Dataset contains only" not in written

    def test_bars_go_to_standard_error_on_a_terminal(
        self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nncf_steps, "on_terminal", lambda: True)
        student_of(tiny_teacher())
        out, err = capfd.readouterr()
        assert "Statistics collection" in err
        assert "Statistics collection" not in out

    def test_nncf_draws_its_own_bars_again_afterwards(self) -> None:
        before = track.__init__
        with pytest.raises(UnsupportedModelError):
            student_of(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)).eval())
        assert track.__init__ is before


class TestUntouched:
    def test_teacher_is_left_as_it_was(self) -> None:
        teacher = tiny_teacher().train()
        teacher.bn1.eval()
        before = Snapshot(teacher)
        student = student_of(teacher, weight_bits=4, activation_bits=4)
        assert before.restore() == []
        assert not any(name.startswith("__nncf") for name, _ in teacher.named_modules())
        assert "forward" not in vars(teacher)
        teacher.conv2.weight.data.zero_()
        assert student.network.get_parameter("network.conv2.weight").abs().max() > 0

    def test_images_are_left_as_they_were(self) -> None:
        synthetic = make_set()
        student_of(tiny_teacher(), synthetic)
        assert torch.equal(synthetic.images, make_set().images)

    def test_global_random_states_are_not_used(self) -> None:
        def states() -> tuple[Any, ...]:
            return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())  # noqa: NPY002

        before = states()
        student_of(tiny_teacher(), weight_bits=4, activation_bits=4)
        assert states() == before

    def test_the_same_request_gives_the_same_student(self) -> None:
        one, two = (student_of(tiny_teacher(), weight_bits=3, activation_bits=3) for _ in range(2))
        images = make_set(seed=1).images
        assert torch.equal(one(images), two(images))

    def test_student_is_finished(self) -> None:
        student = student_of(tiny_teacher(), weight_bits=4, activation_bits=4)
        assert not student.training
        assert not any(parameter.requires_grad for parameter in student.parameters())
        assert all(quantizer.is_enabled_quantization() for _, quantizer in student.quantizers())
        before = {name: value.clone() for name, value in student.state_dict().items()}
        student.snap_biases()  # they are on their grid already
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())

    def test_a_deep_copy_answers_alike_and_goes_its_own_way(self) -> None:
        student, images = tiny_student(4), make_set().images
        twin = copy.deepcopy(student)
        expected = student(images)
        assert torch.equal(twin(images), expected)
        twin.quantizer(by_layer(twin)["relu1/relu/0"].name).scale.data.mul_(0.3)
        assert not torch.equal(twin(images), expected)
        assert torch.equal(student(images), expected)


class TestTrouble:
    @pytest.mark.parametrize("bits", [8, 4])
    def test_channels_without_weights_work(self, bits: int) -> None:
        teacher = tiny_teacher()
        teacher.conv2.weight.data[3] = 0.0
        teacher.conv2.weight.data[4] = 1e-30
        teacher.fc.weight.data[:, 5] = 0.0
        student = student_of(teacher, weight_bits=bits, activation_bits=bits, activation_range="min_max")
        assert distance(student, teacher, make_set().images) < (0.03 if bits == 8 else 0.4)
        site, weight = weights_of(student)["conv2/conv2d/0"]
        assert student.quantizer(site.name)(weight)[3].abs().max() < 1e-6

    def test_a_weight_that_is_not_finite_is_an_error_that_names_its_layer(self) -> None:
        teacher = tiny_teacher()
        teacher.conv2.weight.data[0, 0, 0, 0] = float("nan")
        with pytest.raises(InputError, match="conv2/conv2d/0: its weight is not finite"):
            student_of(teacher)

    def test_an_activation_that_is_not_finite_is_an_error_that_names_its_layer(self) -> None:
        class Log(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 1)

            def forward(self, pixels: Tensor) -> Tensor:
                logits: Tensor = self.conv(pixels.log()).mean((2, 3))
                return logits

        with pytest.raises(InputError, match="/log/0: its values on the synthetic images are not finite"):
            student_of(Log().eval())

    @pytest.mark.parametrize("fields", [{}, {"activation_bits": 4, "residual_bits": 4}, {"preset": "mixed"}])
    def test_an_activation_that_is_always_zero_is_an_error_that_names_its_layer(self, fields: dict[str, Any]) -> None:
        teacher = tiny_teacher()
        teacher.bn2.weight.data.zero_()
        teacher.bn2.bias.data.fill_(-1.0)
        with pytest.raises(InputError, match="relu2/relu/0: it is zero on every synthetic image"):
            student_of(teacher, **fields)

    @pytest.mark.parametrize(
        ("teacher", "fields"),
        [
            pytest.param(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), {}, id="no_product"),
            pytest.param(tiny_teacher(), {"ignored_scopes": {"types": ["conv2d", "linear"]}}, id="all_ignored"),
        ],
    )
    def test_a_network_with_nothing_to_quantize_is_unsupported(
        self, teacher: nn.Module, fields: dict[str, Any]
    ) -> None:
        with pytest.raises(UnsupportedModelError, match="Nothing was quantized"):
            student_of(teacher.eval(), **fields)


@pytest.mark.parametrize("correct", [True, False])
def test_our_step_stands_between_placement_and_bias_correction(monkeypatch: pytest.MonkeyPatch, correct: bool) -> None:
    """Says at once when a new NNCF builds its pipeline differently."""
    steps: list[list[type]] = []
    run = Pipeline.run_from_step

    def note(pipeline: Pipeline, *arguments: Any) -> Any:
        steps.extend([type(algorithm) for algorithm in step] for step in pipeline.pipeline_steps)
        return run(pipeline, *arguments)

    monkeypatch.setattr(Pipeline, "run_from_step", note)
    student_of(tiny_teacher(), bias_correction=correct)
    assert steps[-1] == [MinMaxQuantization, nncf_steps.LowBitStep, *([FastBiasCorrection] if correct else [])]


@pytest.mark.parametrize("rounding", ["nearest", "squant"])
def test_bias_correction_makes_up_for_the_weights_as_they_are_rounded(rounding: str) -> None:
    teacher, images = tiny_teacher(), make_set().images
    fields: dict[str, Any] = {"bit_overrides": {"fc|WEIGHT": 2}, "activation_range": "min_max", "rounding": rounding}
    with torch.no_grad():
        expected = teacher(images).mean(0)
        corrected, plain = (
            student_of(teacher, bias_correction=correct, **fields)(images).mean(0) - expected
            for correct in (True, False)
        )
    assert corrected.norm() < 0.5 * plain.norm()
