"""Each term against a value worked out by hand, and what has to hold for it whatever the values are."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dfq_plugin.synthesis.patch_losses import (
    patch_similarities,
    patch_similarity_loss,
    similarity_entropy,
    total_variation_integral,
)

OF_ONE_KERNEL = 0.5 * math.log(2 * math.pi * math.e)  # entropy of a normal distribution of deviation 1, in nats


def patches_at(*degrees: float) -> Tensor:
    """One image, (1, patches, 2), whose patches point in these directions, of different lengths."""
    angles = torch.tensor(degrees).deg2rad()
    lengths = torch.arange(1.0, 1.0 + len(degrees)).unsqueeze(1)
    return (torch.stack([angles.cos(), angles.sin()], dim=1) * lengths).unsqueeze(0)


class TestSimilarities:
    def test_each_pair_counts_once_and_lengths_do_not_matter(self) -> None:
        found = patch_similarities(patches_at(0, 60, 180))  # pairs 0-1, 0-2, 1-2
        assert found == pytest.approx(torch.tensor([[0.5, -1.0, -0.5]]), abs=1e-6)

    def test_many_patches_are_thinned_evenly(self) -> None:
        outputs = torch.randn(1, 1000, 8, generator=torch.Generator().manual_seed(0))
        found = patch_similarities(outputs)
        assert found.shape == (1, 256 * 255 // 2)
        first_and_last = torch.nn.functional.cosine_similarity(outputs[0, 0], outputs[0, -1], dim=0)
        assert found[0, 254].item() == pytest.approx(first_and_last.item(), abs=1e-6)


class TestEntropy:
    @pytest.mark.parametrize("value", [-1.0, -0.123, 0.0, 0.7, 1.0])
    def test_of_equal_values_is_that_of_the_kernel(self, value: float) -> None:
        found = similarity_entropy(torch.full((2, 5), value), 0.1)
        assert found.tolist() == pytest.approx([OF_ONE_KERNEL + math.log(0.1)] * 2, abs=2e-3)

    def test_of_two_heaps_far_apart_is_higher_by_log_two(self) -> None:
        found = similarity_entropy(torch.tensor([[-0.8, 0.9, -0.8, 0.9]]), 0.05)
        assert found.item() == pytest.approx(OF_ONE_KERNEL + math.log(0.05) + math.log(2), abs=2e-3)

    def test_equals_that_of_a_sum_of_kernels_with_its_gradient(self) -> None:
        values = torch.rand(1, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
        values.requires_grad_()
        places = torch.linspace(-2, 2, 8001, dtype=torch.float64)
        kernels = torch.exp(-((places[:, None] - values) / 0.1).square() / 2) / (0.1 * math.sqrt(2 * math.pi))
        density = kernels.mean(dim=1)
        expected = -torch.special.xlogy(density, density.clamp_min(1e-30)).sum() * (places[1] - places[0])
        found = similarity_entropy(values, 0.1)
        assert found.item() == pytest.approx(expected.item(), abs=1e-3)
        (slope,), (wanted,) = (torch.autograd.grad(each.sum(), values) for each in (found, expected))
        assert (slope - wanted).norm() < 0.05 * wanted.norm()

    def test_does_not_depend_on_the_order_of_values(self) -> None:
        values = torch.rand(1, 40, generator=torch.Generator().manual_seed(0))
        assert similarity_entropy(values.flip(1), 0.1).item() == pytest.approx(similarity_entropy(values, 0.1).item())


class TestLoss:
    def test_matches_hand_computed_value(self) -> None:
        """Two attentions: patches all alike (one heap), and in two opposite pairs (two heaps, of 1/3 and 2/3)."""
        alike, opposite = patches_at(10, 10, 10, 10), patches_at(0, 0, 180, 180)
        mixed = -(math.log(1 / 3) / 3 + math.log(2 / 3) * 2 / 3)
        expected = -(2 * (OF_ONE_KERNEL + math.log(0.05)) + mixed)
        assert patch_similarity_loss([alike, opposite], 0.05).item() == pytest.approx(expected, abs=5e-3)

    def test_is_averaged_over_images_and_summed_over_attentions(self) -> None:
        few = patch_similarity_loss([patches_at(0, 0, 180, 180)], 0.05)
        images = torch.cat([patches_at(0, 0, 180, 180)] * 3)
        assert patch_similarity_loss([images], 0.05).item() == pytest.approx(few.item(), rel=1e-5)
        assert patch_similarity_loss([images] * 2, 0.05).item() == pytest.approx(2 * few.item(), rel=1e-5)

    def test_is_lower_where_patches_differ(self) -> None:
        alike, different = patches_at(0, 1, 2, 3), patches_at(0, 40, 110, 170)
        assert patch_similarity_loss([different], 0.05) < patch_similarity_loss([alike], 0.05)

    def test_descending_on_it_makes_patches_of_one_kind_differ(self) -> None:
        outputs = torch.ones(1, 6, 8) + 0.05 * torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
        outputs.requires_grad_()
        optimizer = torch.optim.Adam([outputs], lr=0.05)
        before = patch_similarities(outputs).std().item()
        for _ in range(20):
            optimizer.zero_grad()
            patch_similarity_loss([outputs], 0.05).backward()
            optimizer.step()
        assert patch_similarities(outputs).std().item() > 3 * before


class TestTotalVariation:
    def test_matches_hand_computed_value_on_a_ramp(self) -> None:
        """3 a pixel to the right and 4 a pixel down, over 8 by 8 pixels: the length is 8 times 5 everywhere."""
        ramp = 3.0 * torch.arange(8.0) + 4.0 * torch.arange(8.0).unsqueeze(1)
        assert total_variation_integral(ramp.expand(2, 3, 8, 8)).item() == pytest.approx(40.0, rel=1e-5)

    def test_is_the_same_for_a_picture_of_more_pixels(self) -> None:
        small, large = (torch.linspace(0, 1, size + 1)[:size].expand(1, 1, size, size) for size in (16, 64))
        assert total_variation_integral(small).item() == pytest.approx(total_variation_integral(large).item(), rel=1e-3)

    def test_flat_image_has_none_and_a_finite_gradient(self) -> None:
        flat = torch.ones(1, 3, 4, 4, requires_grad=True)
        loss = total_variation_integral(flat)
        assert loss.item() == pytest.approx(0.0, abs=2e-4)
        (gradient,) = torch.autograd.grad(loss, flat)
        assert gradient.isfinite().all()
