from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.synthesis.swing import shift_by_reflection, swing_convolutions
from dfq_plugin.testing import tiny_teacher


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestShiftByReflection:
    def test_gives_the_nine_shifts_with_reflected_edges(self) -> None:
        image = torch.arange(9.0).view(1, 1, 3, 3)
        generator = random()
        seen = {tuple(shift_by_reflection(image, generator).flatten().tolist()) for _ in range(300)}
        assert len(seen) == 9
        assert tuple(range(9)) in seen  # not shifted
        assert (4, 3, 4, 1, 0, 1, 4, 3, 4) in seen  # down and to the right: row and column 1 come in from outside
        assert (4, 5, 4, 7, 8, 7, 4, 5, 4) in seen  # up and to the left

    def test_shifts_are_equally_likely(self) -> None:
        image = torch.arange(3.0).view(1, 1, 1, 3)
        generator = random()
        firsts = [shift_by_reflection(image, generator)[0, 0, 0, 0].item() for _ in range(900)]
        assert sum(firsts) / 900 == pytest.approx(2 / 3, abs=0.06)  # begins with 1, 0 or 1: two thirds

    @pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1), (2, 2)])
    def test_shape_stays_and_a_single_pixel_is_not_shifted(self, size: tuple[int, int]) -> None:
        image = torch.randn(2, 3, *size, generator=random())
        shifted = shift_by_reflection(image, random())
        assert shifted.shape == image.shape
        assert size != (1, 1) or torch.equal(shifted, image)

    def test_one_shift_for_the_whole_batch(self) -> None:
        image = torch.arange(16.0).view(1, 1, 4, 4).expand(5, 1, 4, 4)
        shifted = shift_by_reflection(image, random())
        assert all(torch.equal(one, shifted[0]) for one in shifted)


class TestSwingConvolutions:
    def test_only_strided_convolutions_read_shifted_inputs(self) -> None:
        images = torch.randn(1, 2, 6, 6, generator=random())
        plain = nn.Conv2d(2, 3, 3, padding=1)
        with swing_convolutions(plain, random()):
            assert torch.equal(plain(images), plain(images))
        strided = nn.Conv2d(2, 3, 3, stride=(1, 2))
        expected = strided(shift_by_reflection(images, random()))
        with swing_convolutions(strided, random()):
            assert torch.equal(strided(images), expected)

    def test_every_forward_pass_draws_anew(self) -> None:
        teacher, images = tiny_teacher(), torch.randn(1, 3, 8, 8, generator=random())
        with swing_convolutions(teacher, random()), torch.no_grad():
            outputs = [teacher(images) for _ in range(20)]
        assert len({tuple(output.flatten().tolist()) for output in outputs}) > 3

    def test_the_network_is_as_before_also_after_an_error(self) -> None:
        teacher, images = tiny_teacher(), torch.randn(1, 3, 8, 8, generator=random())
        before = teacher(images)
        with pytest.raises(ZeroDivisionError), swing_convolutions(teacher, random()):
            raise ZeroDivisionError
        assert not any(module._forward_pre_hooks for module in teacher.modules())
        assert torch.equal(teacher(images), before)

    def test_gradient_passes_through(self) -> None:
        convolution = nn.Conv2d(1, 1, 1, stride=2, bias=False)
        images = torch.zeros(1, 1, 4, 4, requires_grad=True)
        nn.init.ones_(convolution.weight)
        reached = torch.zeros(4, 4)
        generator = random()
        for _ in range(60):
            with swing_convolutions(convolution, generator):
                output: Tensor = convolution(images).sum()
            (gradient,) = torch.autograd.grad(output, images)
            reached += gradient[0, 0]
        assert (reached > 0).all()  # without the shifts three quarters of the pixels are never seen
