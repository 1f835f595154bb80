from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dfq_plugin.synthesis import dead_leaves
from dfq_plugin.synthesis.dead_leaves import draw_dead_leaves, draw_leaf, draw_texture


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestDrawTexture:
    def test_amplitude_falls_with_the_frequency_to_the_power_of_the_exponent(self) -> None:
        textures = torch.cat([draw_texture((3, 64, 64), 1.5, random(seed)) for seed in range(40)])
        power = torch.fft.rfft2(textures).abs().square().mean(dim=0)[0]  # along the columns
        slope = (power[16] / power[4]).log2() / 2  # two octaves
        assert slope.item() == pytest.approx(-3.0, abs=0.4)  # of the power: twice the exponent

    def test_mean_is_0_and_spread_about_1(self) -> None:
        textures = torch.stack([draw_texture((3, 32, 32), 1.0, random(seed)) for seed in range(50)])
        assert textures.mean().abs().item() < 1e-4
        assert textures.std().item() == pytest.approx(1.0, abs=0.1)

    def test_channels_mostly_vary_together(self) -> None:
        textures = torch.stack([draw_texture((2, 16, 16), 0.5, random(seed)) for seed in range(50)])
        correlation = torch.corrcoef(textures.transpose(0, 1).flatten(1))[0, 1].item()
        assert 0.75 < correlation < 0.95

    def test_a_single_pixel_has_none(self) -> None:
        assert torch.equal(draw_texture((3, 1, 1), 1.0, random()), torch.zeros(3, 1, 1))


class TestDrawLeaf:
    def test_leaves_cover_from_little_to_much_and_small_ones_are_many(self) -> None:
        covers = torch.tensor([draw_leaf((64, 64), random(seed))[0].mean().item() for seed in range(300)])
        assert covers.min().item() < 0.005
        assert covers.max().item() > 0.2
        assert covers.median().item() < covers.mean().item() < 0.2

    def test_light_changes_across_a_leaf_but_not_much(self) -> None:
        lights = [draw_leaf((64, 64), random(seed)) for seed in range(50)]
        inside = [light[cover > 0.9] for cover, light in lights if (cover > 0.9).sum() > 20]
        assert all(values.std().item() > 0 for values in inside)
        assert max(values.abs().max().item() for values in inside) < 1.5

    @pytest.mark.parametrize("kind", [0, 1, 2])
    def test_every_shape_has_an_inside_and_an_outside(self, kind: int, monkeypatch: pytest.MonkeyPatch) -> None:
        drawn = torch.randint

        def only(*limits: object, generator: torch.Generator) -> Tensor:
            return torch.tensor(kind) if limits == (3, ()) else drawn(*limits, generator=generator)  # type: ignore[call-overload]

        monkeypatch.setattr(torch, "randint", only)
        places = torch.linspace(-20, 20, 41)
        distance = dead_leaves._distance(places.view(1, -1).expand(41, -1), places.view(-1, 1), 10.0, random())
        assert distance[20, 20].item() < -5
        assert distance[0].min().item() > 0
        assert 60 < (distance < 0).sum().item() < 600


class TestDrawDeadLeaves:
    @pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 16, 24), (4, 3, 50), (2, 1, 1)])
    def test_pixels_lie_within_0_and_1_in_any_shape(self, shape: tuple[int, int, int]) -> None:
        for seed in range(5):
            image = draw_dead_leaves(shape, max_leaves=6, generator=random(seed))
            assert tuple(image.shape) == shape
            assert image.isfinite().all()
            assert 0 <= image.min().item() <= image.max().item() <= 1

    def test_a_leaf_hides_what_lies_under_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def whole(size: tuple[int, int], _: torch.Generator) -> tuple[Tensor, Tensor]:
            return torch.ones(size), torch.full(size, 20.0)  # as bright as can be

        monkeypatch.setattr(dead_leaves, "draw_leaf", whole)
        image = draw_dead_leaves((3, 16, 16), max_leaves=4, generator=random())
        assert image.min().item() > 0.99

    def test_the_number_of_leaves_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fallen: list[int] = []

        def count(size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
            fallen[-1] += 1
            return draw_leaf(size, generator)

        monkeypatch.setattr(dead_leaves, "draw_leaf", count)
        for seed in range(40):
            fallen.append(0)
            draw_dead_leaves((1, 4, 4), max_leaves=6, generator=random(seed))
        assert set(fallen) == {4, 5, 6}
