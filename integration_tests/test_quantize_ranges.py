"""The ranges of students, and networks for which there are none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.errors import InputError, UnsupportedModelError
from dfq_plugin.quantization import ranges
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.quantization.networks import filled
from integration_tests.students import by_layer, distance, make_set, student_of, tiny_student, weights_of

pytestmark = pytest.mark.usefixtures("kernels")


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

    def test_auto_searches_activations_always_and_weights_below_eight_bits(self) -> None:
        for bits, weights in ((8, "min_max"), (4, "mse")):
            auto = tiny_student(bits)
            other = student_of(
                tiny_teacher(),
                weight_bits=bits,
                activation_bits=bits,
                residual_bits=bits,
                first_last_bits=None,
                weight_range=weights,
                activation_range="mse",
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

    @pytest.mark.parametrize("count", [1, 3])
    def test_fewer_images_than_a_batch_are_enough(self, count: int) -> None:
        synthetic = make_set(count)
        student = student_of(tiny_teacher(), synthetic, batch_size=32, activation_bits=4)
        assert distance(student, tiny_teacher(), synthetic.images) < 0.5

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

    def test_an_activation_that_nncf_does_not_quantize_and_is_not_finite_is_an_error_too(self) -> None:
        class Gate(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 1)

            def forward(self, pixels: Tensor) -> Tensor:
                return F.hardswish(self.conv(pixels).log())

        with pytest.raises(InputError, match=r"hardswish/0: its values on the synthetic images are not finite"):
            student_of(nn.Sequential(Gate(), nn.Conv2d(4, 4, 1)).eval())

    def test_a_layer_without_any_weight_works(self) -> None:
        class Residual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.alive = nn.Conv2d(3, 3, 1)
                self.dead = nn.Conv2d(3, 3, 1)

            def forward(self, pixels: Tensor) -> Tensor:
                values = self.alive(pixels)
                total: Tensor = values + self.dead(values)
                return total.flatten(1)

        teacher = Residual().eval()
        for parameter in teacher.dead.parameters():
            parameter.data.zero_()
        assert distance(student_of(teacher), teacher, make_set().images) < 0.03

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
            pytest.param(nn.Sequential(nn.ReLU(), nn.PReLU(3)), {}, id="no_product"),
            pytest.param(tiny_teacher(), {"ignored_scopes": {"types": ["conv2d", "linear"]}}, id="all_ignored"),
        ],
    )
    def test_a_network_with_nothing_to_quantize_is_unsupported(
        self, teacher: nn.Module, fields: dict[str, Any]
    ) -> None:
        with pytest.raises(UnsupportedModelError, match="Nothing was quantized"):
            student_of(teacher.eval(), **fields)
