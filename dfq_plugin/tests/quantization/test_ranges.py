"""Range search: hand-computed optima, and never worse than the full range by its own measure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.quantization import ranges
from dfq_plugin.quantization.ranges import (
    ACTIVATION_POWER,
    BINS,
    CLIP_RATIOS,
    WEIGHT_POWER,
    TensorHistogram,
    fit_range,
    fit_scales,
    search_channel_scales,
    search_tensor_range,
    search_tensor_scale,
    set_limits,
    watch,
)
from dfq_plugin.tests.quantization.networks import asymmetric, symmetric

RANDOM = torch.Generator().manual_seed(11)
LONG_TAIL = torch.cat([torch.randn(4000, generator=RANDOM), torch.tensor([9.0, -7.0])])


def histogram_of(*batches: Tensor) -> TensorHistogram:
    histogram = TensorHistogram()
    for batch in batches:
        histogram.update(batch)
    return histogram


def error(values: Tensor, step: float, low: int, high: int, power: float = ACTIVATION_POWER) -> float:
    """The measure, written out once more: mean of |x - Q(x)|^p."""
    rounded = (values.double() / step).round().clamp(low, high) * step
    return float((values.double() - rounded).abs().pow(power).mean())


class TestHistogram:
    def test_counts_every_value_once(self) -> None:
        histogram = histogram_of(torch.tensor([[1.0, -1.0], [0.5, 0.0]]))
        assert histogram.counts.sum() == 4
        assert histogram.limit == 1.0
        centres, counts = histogram.occupied()
        assert counts.tolist() == [1.0, 1.0, 1.0, 1.0]
        assert centres.tolist() == pytest.approx([-1.0, 0.0, 0.5, 1.0], abs=1.0 / BINS)

    def test_widening_gives_what_one_wide_histogram_would(self) -> None:
        values = ((LONG_TAIL * 128).floor() + 0.3) / 128  # never on the edge of a bin, of whatever width
        batches = [values[values.abs() < 1], values[values.abs() < 3], values]
        widened = TensorHistogram()
        widened.limit = 1.0
        for batch in batches:
            widened.update(batch)
        assert widened.limit == 16.0  # 1 doubled until it covers 9
        direct = torch.histc(torch.cat(batches), BINS, -16.0, 16.0).double()
        assert torch.equal(widened.counts, direct)

    def test_keeps_its_width_when_smaller_values_follow(self) -> None:
        histogram = histogram_of(torch.tensor([2.0]), torch.tensor([0.1, -2.0]))
        assert histogram.limit == 2.0
        assert histogram.counts.sum() == 3

    def test_shares_say_how_much_each_part_of_a_batch_counts(self) -> None:
        values = torch.tensor([[1.0, 1.0], [-1.0, 0.5]])
        histogram = TensorHistogram()
        histogram.update(values, torch.tensor([0.75, 0.25]))
        centres, counts = histogram.occupied()
        assert centres.tolist() == pytest.approx([-1.0, 0.5, 1.0], abs=1.0 / BINS)
        assert counts.tolist() == [0.25, 0.25, 1.5]

    def test_is_empty_for_zeros_alone_and_counts_them_later(self) -> None:
        histogram = histogram_of(torch.zeros(5))
        assert len(histogram.occupied()[0]) == 0
        histogram.update(torch.tensor([0.0, 1.0]))
        assert histogram.counts.sum() == 2


class TestTensorScale:
    def test_finds_the_hand_computed_optimum_of_an_unsigned_tensor(self) -> None:
        # Codes 0..3; 1000 ones and a single 4. At step 1 + e the error is 1000 e^2.4 + (1 - 3e)^2.4, least where
        # 1000 e^1.4 = 3 (1 - 3e)^1.4, at e = 0.0151; the full range, e = 1/3, has 72. Ratios are tried 0.01 apart.
        histogram = histogram_of(torch.cat([torch.ones(1000), torch.tensor([4.0])]))
        assert search_tensor_scale(histogram, 0, 3) == pytest.approx(3 * 1.0151, abs=0.5 * 0.01 * 4)

    def test_keeps_the_full_range_when_all_values_are_codes(self) -> None:
        codes = torch.arange(-8, 8).float().repeat(100)
        assert search_tensor_scale(histogram_of(codes), -8, 7) == pytest.approx(7.0, rel=2e-3)

    def test_reaches_the_lowest_code_when_the_tensor_is_mostly_negative(self) -> None:
        values = torch.tensor([-8.0] * 50 + [-4.0] * 50 + [1.0] * 10)
        assert search_tensor_scale(histogram_of(values), -8, 7) == pytest.approx(7.0, rel=2e-3)

    @pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
    @pytest.mark.parametrize("signed", [True, False])
    def test_is_never_worse_than_the_full_range(self, bits: int, signed: bool) -> None:
        values = LONG_TAIL if signed else LONG_TAIL.relu()
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        scale = search_tensor_scale(histogram_of(values), low, high)
        full = max(float(values.max()), -float(values.min()) * high / -low if signed else 0.0)
        assert error(values, scale / high, low, high) <= error(values, full / high, low, high) * (1 + 1e-3)

    def test_clips_more_the_fewer_bits_there_are(self) -> None:
        histogram = histogram_of(LONG_TAIL)
        scales = [search_tensor_scale(histogram, -(2 ** (b - 1)), 2 ** (b - 1) - 1) for b in (8, 4, 3)]
        assert scales[0] > scales[1] > scales[2]

    def test_follows_the_tensor_when_it_is_scaled(self) -> None:
        scale = search_tensor_scale(histogram_of(LONG_TAIL), -8, 7)
        assert search_tensor_scale(histogram_of(LONG_TAIL * 4.0), -8, 7) == pytest.approx(4.0 * scale)

    def test_is_one_for_a_tensor_of_zeros(self) -> None:
        assert search_tensor_scale(histogram_of(torch.zeros(3)), -8, 7) == 1.0


class TestTensorRange:
    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_gives_zero_a_code_of_its_own(self, bits: int) -> None:
        low, high = search_tensor_range(histogram_of(LONG_TAIL + 0.7), 2**bits)
        step = (high - low) / (2**bits - 1)
        assert -low / step == pytest.approx(round(-low / step), abs=1e-6)
        assert low <= 0.0 <= high

    def test_finds_a_grid_that_every_value_is_on(self) -> None:
        values = torch.tensor([-1.0, 0.0, 1.0, 2.0]).repeat(100)
        low, high = search_tensor_range(histogram_of(values), 4)
        assert (low, high) == pytest.approx((-1.0, 2.0), rel=2e-3)

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_finds_the_hand_computed_optimum_when_one_side_has_a_stray_value(self, sign: float) -> None:
        # Codes 0..3 and zero point 1 hold -1, 0, 1, 2 exactly; the single 8 is given up: 6^2.4 = 74 against thousands.
        values = torch.cat([torch.tensor([-1.0, 1.0, 2.0]).repeat(2000), torch.tensor([8.0])]) * sign
        found = search_tensor_range(histogram_of(values), 4)
        assert sorted(end * sign for end in found) == pytest.approx([-1.0, 2.0], rel=0.03)

    @pytest.mark.parametrize(("sign", "empty_side"), [(1.0, 0), (-1.0, 1)])
    def test_ends_at_zero_when_the_tensor_has_one_sign(self, sign: float, empty_side: int) -> None:
        assert search_tensor_range(histogram_of(LONG_TAIL.abs() * sign), 16)[empty_side] == 0.0

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_equals_the_search_without_zero_point_when_the_tensor_has_one_sign(self, sign: float) -> None:
        low, high = search_tensor_range(histogram_of(LONG_TAIL.relu() * sign), 16)
        expected = search_tensor_scale(histogram_of(LONG_TAIL.relu()), 0, 15)
        assert (low + high) * sign == pytest.approx(expected, rel=2e-3)

    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_is_never_worse_than_the_full_range(self, bits: int) -> None:
        values, levels = LONG_TAIL + 1.5, 2**bits
        low, high = search_tensor_range(histogram_of(values), levels)

        def measure(low: float, high: float) -> float:
            step = (high - low) / (levels - 1)
            zero = round(-low / step)
            return error(values, step, -zero, levels - 1 - zero)

        assert measure(low, high) <= measure(float(values.min()), float(values.max())) * (1 + 1e-3)

    def test_is_the_unit_range_for_a_tensor_of_zeros(self) -> None:
        assert search_tensor_range(histogram_of(torch.zeros(3)), 16) == (0.0, 1.0)


class TestChannelScales:
    def test_searches_each_channel_by_itself(self) -> None:
        # First channel: all values are codes of step 1. Second: 7 is best given up for 1000 exact values of step 1/7.
        weight = torch.zeros(2, 1001)
        weight[0, :15] = torch.arange(-7, 8)
        weight[1, :1000], weight[1, 1000] = 1.0, 7.0
        scales = search_channel_scales(weight, -7, 7)
        assert scales.tolist() == pytest.approx([7.0, 7.0])
        # Codes -1, 0, 1: to keep a 10 costs 1000 times 1, to give it up 8^4. A 5 costs only 4^4: the ones decide.
        weight[1, 1000] = 10.0
        assert search_channel_scales(weight, -1, 1).tolist()[1] == pytest.approx(10.0)
        weight[1, 1000] = 5.0
        assert search_channel_scales(weight, -1, 1).tolist()[1] < 1.5

    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_is_never_worse_than_the_full_range(self, bits: int) -> None:
        weight = torch.randn(6, 3, 3, 3, generator=RANDOM) ** 3
        high = 2 ** (bits - 1) - 1
        scales = search_channel_scales(weight, -high, high)
        for row, scale in zip(weight, scales.tolist(), strict=True):
            full = float(row.abs().max())
            found, whole = (error(row, each / high, -high, high, WEIGHT_POWER) for each in (scale, full))
            assert found <= whole * (1 + 1e-5)

    @pytest.mark.parametrize("bits", [2, 3, 4, 8])
    def test_is_as_good_as_trying_every_ratio(self, bits: int) -> None:
        weight = torch.randn(20, 300, generator=RANDOM) * torch.randn(20, 300, generator=RANDOM)
        high = 2 ** (bits - 1) - 1
        found = search_channel_scales(weight, -high, high).tolist()
        total, best = 0.0, 0.0
        for row, scale in zip(weight, found, strict=True):
            candidates = (CLIP_RATIOS * row.abs().max() / high).tolist()
            tried = [error(row, step, -high, high, WEIGHT_POWER) for step in candidates]
            total, best = total + error(row, scale / high, -high, high, WEIGHT_POWER), best + min(tried)
        assert total <= best * 1.002

    def test_clips_the_more_the_fewer_bits_there_are(self) -> None:
        weight = LONG_TAIL.unsqueeze(0)
        scales = [search_channel_scales(weight, 1 - 2 ** (b - 1), 2 ** (b - 1) - 1).item() for b in (8, 4, 3, 2)]
        assert scales == sorted(scales, reverse=True)
        assert scales[0] > 2 * scales[-1]

    def test_takes_channels_from_the_axis_it_is_told(self) -> None:
        weight = torch.randn(5, 3, 2, 2, generator=RANDOM)
        across = search_channel_scales(weight, -7, 7, axis=1)
        assert across.shape == (3,)
        assert torch.equal(across, search_channel_scales(weight.transpose(0, 1), -7, 7))

    def test_follows_a_channel_when_it_is_scaled_far_down(self) -> None:
        weight = torch.randn(2, 40, generator=RANDOM)
        weight[1] = weight[0] * 2.0**-20
        scales = search_channel_scales(weight, -7, 7)
        assert scales[1] == scales[0] * 2.0**-20

    @pytest.mark.parametrize("dead", [0.0, 1e-30, 1e-12])
    def test_gives_a_dead_channel_a_step_that_its_bias_can_use(self, dead: float) -> None:
        weight = torch.full((2, 9), 0.5)
        weight[1] = dead
        assert search_channel_scales(weight, -7, 7)[1].item() == pytest.approx(0.005)

    def test_is_one_when_the_whole_weight_is_zero(self) -> None:
        assert search_channel_scales(torch.zeros(3, 4), -7, 7).tolist() == [1.0, 1.0, 1.0]

    def test_is_the_largest_magnitude_when_nothing_else_is_tried(self) -> None:
        weight = torch.tensor([[0.1, -0.4], [3.0, 2.0]])
        assert search_channel_scales(weight, -1, 1, ratios=torch.ones(1)).tolist() == pytest.approx([0.4, 3.0])


class TestFitting:
    def test_a_signed_tensor_gets_a_signed_quantizer_and_its_searched_scale(self) -> None:
        quantizer, histogram = symmetric(9.0, bits=4, signed=False), histogram_of(LONG_TAIL)
        fit_range(quantizer, histogram)
        assert quantizer.signed
        assert quantizer.scale.item() == pytest.approx(search_tensor_scale(histogram, -8, 7))
        fit_range(quantizer, histogram_of(LONG_TAIL.abs()))
        assert not quantizer.signed
        assert quantizer.scale.item() == pytest.approx(search_tensor_scale(histogram_of(LONG_TAIL.abs()), 0, 15))

    def test_an_asymmetric_quantizer_gets_both_ends(self) -> None:
        quantizer, histogram = asymmetric(-9.0, 9.0, bits=4), histogram_of(LONG_TAIL + 0.7)
        fit_range(quantizer, histogram)
        low, high = search_tensor_range(histogram, 16)
        assert quantizer.input_low.item() == pytest.approx(low)
        assert quantizer.input_range.item() == pytest.approx(high - low)

    @pytest.mark.parametrize("axis", [0, 1])
    def test_a_weight_gets_a_scale_for_each_channel_of_its_quantizer(self, axis: int) -> None:
        weight = torch.randn(5, 4, 3, 3, generator=RANDOM)
        shape = [size if dimension == axis else 1 for dimension, size in enumerate(weight.shape)]
        quantizer = symmetric(torch.ones(shape), bits=3, narrow=True)
        fit_scales(quantizer, weight)
        assert list(quantizer.scale.shape) == shape
        assert torch.equal(quantizer.scale.flatten(), search_channel_scales(weight, -3, 3, axis))

    def test_a_weight_gets_one_scale_where_its_quantizer_has_one(self) -> None:
        weight, quantizer = torch.randn(5, 4, generator=RANDOM), symmetric(1.0, bits=3, narrow=True)
        fit_scales(quantizer, weight, torch.ones(1))
        assert quantizer.scale.item() == weight.abs().max()


class TestSetLimits:
    """Pixels between -2 and 2.5, in the 256 codes of an input quantizer."""

    def test_of_a_signed_quantizer_cover_the_larger_side(self) -> None:
        quantizer = symmetric(9.0)
        set_limits(quantizer, -2.0, 2.5)
        assert quantizer.scale.item() == 2.5
        set_limits(quantizer, -2.56, 1.0)
        assert quantizer.scale.item() == pytest.approx(2.54)  # code -128 is -2.56
        assert quantizer.signed

    def test_of_pixels_without_negative_values_use_all_codes(self) -> None:
        quantizer = symmetric(9.0)
        set_limits(quantizer, 0.0, 1.0)
        assert (quantizer.scale.item(), quantizer.level_low, quantizer.level_high) == (1.0, 0, 255)

    def test_of_an_asymmetric_quantizer_leave_zero_a_code(self) -> None:
        quantizer = asymmetric(-9.0, 9.0)
        set_limits(quantizer, -2.0, 2.5)
        step = 4.5 / 255
        assert quantizer.input_range.item() == pytest.approx(4.5)
        assert quantizer.input_low.item() == pytest.approx(-113 * step)  # 2 / step = 113.3


def test_the_full_range_is_among_what_is_tried() -> None:
    assert CLIP_RATIOS[-1] == 1.0


def test_watch_counts_what_reaches_each_module_and_leaves_no_hook() -> None:
    first, second = nn.Identity(), nn.Identity()
    with watch({"a": first, "b": second}) as histograms:
        second(first(torch.tensor([1.0, -2.0])) * 2.0)
        first(torch.tensor([0.5]))
    assert histograms["a"].counts.sum() == 3
    assert histograms["b"].limit == 4.0
    assert not first._forward_pre_hooks
    first(torch.tensor([9.0]))
    assert histograms["a"].limit == 2.0


def test_watch_leaves_no_hook_when_the_block_fails() -> None:
    module = nn.Identity()
    with pytest.raises(KeyError), ranges.watch({"a": module}):
        raise KeyError
    assert not module._forward_pre_hooks
