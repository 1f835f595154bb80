from __future__ import annotations

import pytest
import torch

from dfq_plugin.synthesis import fractals
from dfq_plugin.synthesis.fractals import MapSystem, draw_clouds, draw_fractal_image, draw_system, play_chaos_game


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestDrawSystem:
    def test_maps_are_contractions_of_the_wanted_strength(self) -> None:
        for seed in range(50):
            system = draw_system(3, random(seed))
            count = len(system.matrices)
            singular = torch.linalg.svdvals(system.matrices)
            assert fractals.FEWEST_MAPS <= count <= fractals.MOST_MAPS
            assert singular.max().item() <= fractals.STRONGEST + 1e-5
            total = (singular[:, 0] + 2 * singular[:, 1]).sum().item()
            assert total <= (6 + count) / 2 + 1e-4
            if singular.max().item() < fractals.STRONGEST - 1e-4:  # nothing was cut
                assert total >= (5 + count) / 2 - 1e-4

    def test_probabilities_follow_the_areas(self) -> None:
        system = draw_system(3, random())
        areas = torch.linalg.det(system.matrices).abs()
        torch.testing.assert_close(system.probabilities, areas / areas.sum())

    def test_some_maps_mirror_and_some_do_not(self) -> None:
        signs = torch.cat([torch.linalg.det(draw_system(1, random(seed)).matrices).sign() for seed in range(20)])
        assert 0.3 < (signs > 0).float().mean().item() < 0.7


class TestPlayChaosGame:
    def test_points_settle_on_the_fixed_point_of_a_single_map(self) -> None:
        matrices, offsets = torch.tensor([[[0.5, 0.0], [0.0, -0.25]]]), torch.tensor([[1.0, 2.5]])
        system = MapSystem(matrices, offsets, torch.ones(1), torch.tensor([[0.2, 0.7]]))
        points, colours = play_chaos_game(system, 3, random())
        assert tuple(points.shape) == (3 * fractals.RECORDED, 2)
        torch.testing.assert_close(points, torch.tensor([2.0, 2.0]).expand_as(points), atol=1e-4, rtol=0)
        torch.testing.assert_close(colours, torch.tensor([0.2, 0.7]).expand_as(colours))

    def test_points_of_two_halving_maps_fill_the_cantor_like_segment(self) -> None:
        # x -> x / 2 and x -> x / 2 + 1 / 2: the attractor is the segment 0..1, filled evenly.
        matrices = torch.eye(2).expand(2, 2, 2) / 2
        system = MapSystem(
            matrices,
            torch.tensor([[0.0, 0.0], [0.5, 0.0]]),
            torch.tensor([0.5, 0.5]),
            torch.rand(2, 1, generator=random()),
        )
        points, _ = play_chaos_game(system, 500, random())
        assert points[:, 1].abs().max().item() == 0.0
        assert 0.0 <= points[:, 0].min().item() < 0.01
        assert 0.99 < points[:, 0].max().item() <= 1.0
        assert points[:, 0].mean().item() == pytest.approx(0.5, abs=0.01)

    def test_colours_remember_the_last_map_most(self) -> None:
        matrices = torch.zeros(2, 2, 2)
        system = MapSystem(
            matrices, torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0.5, 0.5]), torch.tensor([[0.0], [1.0]])
        )
        points, colours = play_chaos_game(system, 50, random())
        assert (colours[points[:, 0] == 1] >= 0.5).all()
        assert (colours[points[:, 0] == 0] <= 0.5).all()


class TestDrawClouds:
    def test_neighbours_resemble_each_other_more_than_strangers(self) -> None:
        clouds = torch.stack([draw_clouds((3, 32, 32), random(seed)) for seed in range(20)])
        near = (clouds[..., 1:] - clouds[..., :-1]).abs().mean().item()
        far = (clouds[..., 16:] - clouds[..., :16]).abs().mean().item()
        assert 4 * near < far

    def test_channels_mostly_vary_together(self) -> None:
        clouds = torch.stack([draw_clouds((2, 16, 16), random(seed)) for seed in range(50)])
        correlation = torch.corrcoef(clouds.transpose(0, 1).flatten(1))[0, 1].item()
        assert 0.7 < correlation < 0.95

    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 17), (2, 1, 1)])
    def test_values_lie_within_0_and_1_in_any_shape(self, shape: tuple[int, int, int]) -> None:
        clouds = draw_clouds(shape, random())
        assert tuple(clouds.shape) == shape
        assert 0 <= clouds.min().item() <= clouds.max().item() <= 1


class TestDrawFractalImage:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 16, 24), (4, 3, 50)])
    def test_pixels_lie_within_0_and_1_in_any_shape(self, shape: tuple[int, int, int]) -> None:
        for seed in range(5):
            image = draw_fractal_image(shape, max_fractals=3, points_per_pixel=4, generator=random(seed))
            assert tuple(image.shape) == shape
            assert image.isfinite().all()
            assert 0 <= image.min().item() <= image.max().item() <= 1

    def test_a_fractal_covers_part_of_the_clouds(self) -> None:
        shape = (3, 32, 32)
        shares = []
        for seed in range(20):
            image = draw_fractal_image(shape, max_fractals=1, points_per_pixel=8, generator=random(seed))
            shares.append((image - draw_clouds(shape, random(seed))).abs().amax(dim=0).gt(1e-6).float().mean().item())
        assert 0.05 < sum(shares) / len(shares) < 0.9
        assert max(shares) < 1.0

    def test_more_points_cover_more(self) -> None:
        def covered(points_per_pixel: int) -> float:
            found = 0.0
            for seed in range(10):
                image = draw_fractal_image(
                    (1, 32, 32), max_fractals=1, points_per_pixel=points_per_pixel, generator=random(seed)
                )
                found += (image - draw_clouds((1, 32, 32), random(seed))).abs().gt(1e-6).float().mean().item()
            return found

        assert covered(32) > 1.2 * covered(1)

    def test_the_number_of_fractals_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn: list[int] = []

        def spy(channels: int, generator: torch.Generator) -> MapSystem:
            drawn.append(channels)
            return draw_system(channels, generator)

        monkeypatch.setattr(fractals, "draw_system", spy)
        counts = set()
        for seed in range(30):
            drawn.clear()
            draw_fractal_image((1, 8, 8), max_fractals=3, points_per_pixel=4, generator=random(seed))
            counts.add(len(drawn))
        assert counts == {1, 2, 3}
