from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dfq_plugin.augment import Crops, crop_and_resize, draw_crops, jitter


def crops(*boxes: tuple[int, int, int, int], mirrored: bool = False) -> Crops:
    """Make crops from (top, left, height, width)."""
    top, left, height, width = torch.tensor(boxes).unbind(dim=1)
    return Crops(top, left, height, width, torch.full((len(boxes),), mirrored))


def draw(count: int, size: tuple[int, int], min_area: float, mirror: float = 0.5, seed: int = 0) -> Crops:
    generator = torch.Generator().manual_seed(seed)
    return draw_crops(count, size, min_area=min_area, mirror_probability=mirror, generator=generator)


def ramp(rows: int, columns: int) -> Tensor:
    """Make an image whose pixel at row i, column j is 100 * i + j."""
    return (100.0 * torch.arange(rows).view(-1, 1) + torch.arange(columns)).view(1, 1, rows, columns)


class TestCropAndResize:
    def test_a_crop_of_a_ramp_is_a_ramp_with_known_values(self) -> None:
        seen = crop_and_resize(ramp(8, 8), crops((2, 4, 4, 4)))[0, 0]
        # Output pixel k covers source positions (k + 1/2) / 2 - 1/2 from the corner on, kept inside of the crop.
        offsets = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0])
        torch.testing.assert_close(seen, 100 * (2 + offsets).view(-1, 1) + 4 + offsets, rtol=0, atol=1e-3)

    def test_a_mirrored_crop_runs_backwards(self) -> None:
        images = ramp(8, 8)
        straight = crop_and_resize(images, crops((1, 2, 5, 4)))
        mirrored = crop_and_resize(images, crops((1, 2, 5, 4), mirrored=True))
        torch.testing.assert_close(mirrored, straight.flip(3))

    def test_equals_interpolate_on_each_cut_out_rectangle(self) -> None:
        images = torch.randn(3, 2, 9, 12, generator=torch.Generator().manual_seed(0))
        boxes = ((0, 0, 5, 7), (3, 4, 6, 8), (8, 11, 1, 1))
        seen = crop_and_resize(images, crops(*boxes))
        for image, result, (top, left, height, width) in zip(images, seen, boxes, strict=True):
            cut = image[None, :, top : top + height, left : left + width]
            expected = F.interpolate(cut, size=(9, 12), mode="bilinear", align_corners=False, antialias=False)[0]
            torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)

    def test_the_whole_image_stays_as_it_is(self) -> None:
        images = torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(crop_and_resize(images, crops(*[(0, 0, 6, 5)] * 2)), images, rtol=0, atol=1e-5)

    def test_gradient_reaches_exactly_the_pixels_of_the_rectangle(self) -> None:
        images = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        crop_and_resize(images, crops((2, 3, 4, 5))).sum().backward()
        assert images.grad is not None
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[2:6, 3:8] = True
        assert (images.grad[0, 0][inside] > 0.1).all()
        assert images.grad[0, 0][~inside].abs().max().item() < 1e-4
        assert images.grad.sum().item() == pytest.approx(64.0, rel=1e-4)  # each output weighs its sources by 1 in all


class TestTurnedCrops:
    def test_a_quarter_turn_is_that_of_rot90(self) -> None:
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
        turned = crop_and_resize(images, replace(crops(*[(0, 0, 6, 6)] * 2), angle=torch.full((2,), math.pi / 2)))
        torch.testing.assert_close(turned, images.rot90(1, dims=(2, 3)), rtol=0, atol=1e-5)

    def test_no_turn_is_the_plain_crop_bit_for_bit(self) -> None:
        images = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
        plain = crops((1, 2, 4, 5), (0, 0, 6, 8), mirrored=True)
        turned = replace(plain, angle=torch.zeros(2, dtype=torch.float64))
        assert torch.equal(crop_and_resize(images, turned), crop_and_resize(images, plain))

    def test_pixels_outside_of_the_rectangle_are_not_read(self) -> None:
        images = torch.zeros(1, 1, 8, 8)
        images[:, :, 2:6, 2:6] = 1.0
        angle = torch.full((1,), 0.6, dtype=torch.float64)
        turned = crop_and_resize(images, replace(crops((2, 2, 4, 4)), angle=angle))
        torch.testing.assert_close(turned, torch.ones(1, 1, 8, 8))

    def test_angles_are_uniform_up_to_the_largest(self) -> None:
        generator = torch.Generator().manual_seed(0)
        found = draw_crops(
            2000, (8, 8), min_area=0.5, mirror_probability=0.5, generator=generator, max_angle=90.0
        ).angle
        assert found is not None
        assert found.abs().max().item() == pytest.approx(math.pi / 2, abs=0.01)
        assert found.mean().item() == pytest.approx(0.0, abs=0.08)
        assert found.abs().mean().item() == pytest.approx(math.pi / 4, abs=0.05)

    def test_rectangles_are_the_same_with_and_without_angles(self) -> None:
        plain, turned = (
            draw_crops(
                9,
                (8, 8),
                min_area=0.5,
                mirror_probability=0.5,
                generator=torch.Generator().manual_seed(0),
                max_angle=angle,
            )
            for angle in (0.0, 30.0)
        )
        assert plain.angle is None
        assert torch.equal(plain.left, turned.left)
        assert torch.equal(plain.mirrored, turned.mirrored)


class TestJitter:
    IMAGES = torch.arange(2 * 8 * 8.0).view(2, 1, 8, 8)

    def shifts(self, fraction: float, size: tuple[int, int] = (8, 8)) -> set[tuple[int, int]]:
        generator = torch.Generator().manual_seed(0)
        rows, columns = size
        marked = torch.zeros(1, 1, rows, columns)
        marked[0, 0, 0, 0] = 1.0
        found = set()
        for _ in range(400):
            place = int(jitter(marked, fraction, mirror=False, generator=generator).argmax())
            row, column = divmod(place, columns)
            found.add(((row + rows // 2) % rows - rows // 2, (column + columns // 2) % columns - columns // 2))
        return found

    def test_shifts_reach_the_fraction_of_each_side_both_ways(self) -> None:
        assert self.shifts(0.25) == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}
        assert {row for row, _ in self.shifts(0.125, (8, 24))} == {-1, 0, 1}
        assert {column for _, column in self.shifts(0.125, (8, 24))} == set(range(-3, 4))

    def test_what_leaves_comes_back_and_the_batch_moves_as_one(self) -> None:
        moved = jitter(self.IMAGES, 0.5, mirror=False, generator=torch.Generator().manual_seed(1))
        assert sorted(moved[0].flatten().tolist()) == sorted(self.IMAGES[0].flatten().tolist())
        assert torch.equal(moved[1] - moved[0], torch.full((1, 8, 8), 64.0))

    def test_half_of_the_batches_are_mirrored_if_asked_for(self) -> None:
        generator = torch.Generator().manual_seed(0)
        flags = [
            torch.equal(jitter(self.IMAGES, 0.0, mirror=True, generator=generator), self.IMAGES) for _ in range(200)
        ]
        assert 70 < sum(flags) < 130
        assert torch.equal(jitter(self.IMAGES, 0.0, mirror=False, generator=generator), self.IMAGES)
        mirrored = next(
            seen
            for _ in range(50)
            if not torch.equal(seen := jitter(self.IMAGES, 0.0, mirror=True, generator=generator), self.IMAGES)
        )
        assert torch.equal(mirrored, self.IMAGES.flip(3))


class TestDrawCrops:
    def test_rectangles_lie_inside_with_allowed_area_and_aspect(self) -> None:
        found = draw(500, (40, 60), min_area=0.3)
        assert (found.top >= 0).all()
        assert (found.left >= 0).all()
        assert (found.top + found.height <= 40).all()
        assert (found.left + found.width <= 60).all()
        area = found.height * found.width / (40 * 60)
        aspect = found.width / found.height
        assert area.min().item() == pytest.approx(0.3, abs=0.02)  # rounding to pixels moves the bounds a little
        assert 0.3 - 0.02 <= area.min().item() < area.max().item() <= 1.0
        assert 0.75 - 0.04 <= aspect.min().item() < 0.8
        assert 1.25 < aspect.max().item() <= 4 / 3 + 0.06

    def test_rectangles_differ_between_images_and_touch_all_sides(self) -> None:
        found = draw(500, (16, 16), min_area=0.5)
        assert len({tuple(box) for box in torch.stack([found.top, found.left, found.height], dim=1).tolist()}) > 50
        for first, length in ((found.top, found.height), (found.left, found.width)):
            assert first.min().item() == 0
            assert ((first + length == 16) & (first > 0)).any()

    def test_positions_are_uniform_in_the_room_there_is(self) -> None:
        found = draw(4000, (64, 64), min_area=0.25)
        room = (64 - found.width).double()
        mean = (found.left / room)[room > 8].mean().item()
        assert mean == pytest.approx(0.5, abs=0.02)

    @pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 100)])
    def test_mirroring_follows_its_probability(self, probability: float, expected: int) -> None:
        assert int(draw(100, (8, 8), 0.5, mirror=probability).mirrored.sum()) == expected
        assert 30 < int(draw(100, (8, 8), 0.5, mirror=0.5).mirrored.sum()) < 70

    def test_a_square_image_is_taken_whole_when_min_area_is_1(self) -> None:
        found = draw(20, (64, 64), min_area=1.0)
        assert ((found.height * found.width) / 64**2).min().item() > 0.97

    @pytest.mark.parametrize(
        ("size", "expected"), [((32, 8), (10, 0, 11, 8)), ((8, 32), (0, 10, 8, 11)), ((8, 8), (0, 0, 8, 8))]
    )
    def test_central_rectangle_is_taken_when_none_fits(
        self, size: tuple[int, int], expected: tuple[int, int, int, int]
    ) -> None:
        found = draw(50, size, min_area=1.0)
        boxes = torch.stack([found.top, found.left, found.height, found.width], dim=1).tolist()
        assert list(expected) in boxes
        if size != (8, 8):
            assert all(box == list(expected) for box in boxes)

    def test_the_seed_decides(self) -> None:
        assert torch.equal(draw(50, (32, 32), 0.5, seed=1).left, draw(50, (32, 32), 0.5, seed=1).left)
        assert not torch.equal(draw(50, (32, 32), 0.5, seed=1).left, draw(50, (32, 32), 0.5, seed=2).left)
