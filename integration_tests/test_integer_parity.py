"""Every code that onnxruntime computes equals the integer reference's, whatever the network, the bits or the preset."""

from __future__ import annotations

import numpy as np
import pytest
from torch.nn import functional

from dfq_plugin.config import ValidateSettings
from dfq_plugin.errors import ValidationError
from dfq_plugin.validation import elementwise, pooling, validate
from dfq_plugin.validation.arithmetic import Array, Codes, Grid
from dfq_plugin.validation.parity import compare, require_equal
from dfq_plugin.validation.products import Accumulator
from integration_tests.conftest import Maker
from integration_tests.networks import NETWORKS, images

BITS = [(8, 8), (4, 4), (3, 5), (2, 2), (8, 4)]
SETTINGS = ValidateSettings(parity_codes=200_000)


@pytest.mark.parametrize("preset", ["performance", "mixed"])
@pytest.mark.parametrize(("weight_bits", "activation_bits"), BITS, ids=lambda bits: f"{bits}")
@pytest.mark.parametrize("name", NETWORKS)
def test_every_code_equals_the_reference(
    name: str, weight_bits: int, activation_bits: int, preset: str, make: Maker
) -> None:
    made = make(name, weight_bits, activation_bits, preset=preset, first_last_bits=None)
    verdict = validate(made.path, made.student, images(16, seed=3), SETTINGS)
    census, parity = verdict.census, verdict.parity
    assert census.products_integer == census.products_asked == len(made.student.layers)
    assert census.float == 0, census.float_nodes
    assert parity.codes_compared > 10_000
    assert parity.mismatches == 0, parity.worst
    assert parity.tensors_taken == 0
    assert parity.logits_equal is True


def floor_accumulator(self: Accumulator, grid: Grid) -> Array:
    scaled = self.total.astype(np.float32) * (self.step / grid.step).astype(np.float32)
    return np.clip(np.floor(scaled) + grid.zero, 0, 255).astype(np.uint8)


def shift_sum(left: Codes, right: Codes, grid: Grid) -> Array:
    return np.clip(np.ceil((left.values + right.values) / grid.step) + grid.zero, 0, 255).astype(np.uint8)


def floor_pooled(images: Codes, grid: Grid) -> Array:
    means = images.values.mean(axis=(2, 3), keepdims=True)
    return np.clip(np.floor(means / grid.step) + grid.zero, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (Accumulator, "requantize", floor_accumulator),
        (elementwise, "add", shift_sum),
        (pooling, "pool_globally", floor_pooled),
    ],
    ids=["accumulator", "sum", "pool"],
)
def test_a_wrong_rounding_rule_is_noticed(
    place: object, name: str, wrong: object, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("residual", 4, 4, first_last_bits=None).path
    monkeypatch.setattr(place, name, wrong)
    parity = compare(path, images(4).numpy(), 1)
    assert parity.mismatches > 0
    assert sum(count for _, count in parity.worst) == parity.mismatches
    with pytest.raises(ValidationError, match=rf"differ in {parity.mismatches} of {parity.codes_compared} codes"):
        require_equal(parity, path)


def test_padding_before_the_zero_point_is_taken_off_is_noticed(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("same_padded", 8, 8).path  # its first layer pads images whose zero point is 128
    exact = functional.pad
    monkeypatch.setattr(functional, "pad", lambda values, amounts: exact(values, amounts, value=-128.0))
    parity = compare(path, images(4).numpy(), 1)
    assert parity.mismatches > 0


def test_a_wrong_logit_is_noticed(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("sequential", 8, 8).path
    exact = Accumulator.to_float
    monkeypatch.setattr(Accumulator, "to_float", lambda self: np.nextafter(exact(self), np.float32(np.inf)))
    parity = compare(path, images(4).numpy(), 1)
    assert (parity.mismatches, parity.logits_equal) == (0, False)
    with pytest.raises(ValidationError, match="the logits"):
        require_equal(parity, path)


def test_comparison_stops_once_enough_codes_are_compared(make: Maker) -> None:
    path = make("sequential", 8, 8).path
    one_batch = compare(path, images(16).numpy(), 1)
    all_images = compare(path, images(16).numpy(), 10**9)
    assert (one_batch.images, all_images.images) == (4, 16)
    assert all_images.codes_compared == 4 * one_batch.codes_compared
