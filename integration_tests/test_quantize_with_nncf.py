"""Students as NNCF really makes them: their codes, their grids, and our place in NNCF's pipeline."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nncf.quantization.algorithms.fast_bias_correction.algorithm import FastBiasCorrection
from nncf.quantization.algorithms.min_max.algorithm import MinMaxQuantization
from nncf.quantization.algorithms.pipeline import Pipeline
from torch import Tensor, nn

from dfq_plugin.errors import ConfigError
from dfq_plugin.quantization.low_bit_step import LowBitStep
from dfq_plugin.student import Grid, QuantizerSite, Student
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.quantization.networks import asymmetric, symmetric
from integration_tests.students import by_layer, make_set, student_of, tiny_student, weights_of

pytestmark = pytest.mark.usefixtures("kernels")


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
                assert codes <= 2**bits
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
        assert len(student.quantizer(site.name)(weight)[0].unique()) <= 8

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


@pytest.mark.parametrize("correct", [True, False])
def test_our_step_stands_between_placement_and_bias_correction(monkeypatch: pytest.MonkeyPatch, correct: bool) -> None:
    """Says at once when a new NNCF builds its pipeline differently."""
    steps: list[list[type]] = []
    run = Pipeline.run_from_step

    def note(pipeline: Pipeline, *arguments: Any) -> Any:
        steps.extend([type(algorithm) for algorithm in step] for step in pipeline.pipeline_steps)
        return run(pipeline, *arguments)

    monkeypatch.setattr(Pipeline, "run_from_step", note)
    student_of(tiny_teacher(), bias_correction="images" if correct else "none")
    assert steps[-1] == [MinMaxQuantization, LowBitStep, *([FastBiasCorrection] if correct else [])]


@pytest.mark.parametrize("rounding", ["nearest", "squant"])
def test_bias_correction_makes_up_for_the_weights_as_they_are_rounded(rounding: str) -> None:
    teacher, images = tiny_teacher(), make_set().images
    ranges = {"activation_range": "min_max", "weight_range": "min_max"}  # NNCF leaves alone what is too far off
    fields: dict[str, Any] = {"bit_overrides": {"fc|WEIGHT": 2}, "rounding": rounding, **ranges}
    with torch.no_grad():
        expected = teacher(images).mean(0)
        corrected, plain = (
            student_of(teacher, bias_correction="images" if correct else "none", **fields)(images).mean(0) - expected
            for correct in (True, False)
        )
    assert corrected.norm() < 0.5 * plain.norm()
