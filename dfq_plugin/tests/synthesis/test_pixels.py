from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dfq_plugin.errors import ProviderContractError
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.synthesis.descent import Descent, Objective, PixelBatch, PixelSettings, PixelStart
from dfq_plugin.synthesis.pixels import PixelResult, batch_generator, optimise_batches, optimise_pixels
from dfq_plugin.synthesis.schedules import reduce_on_plateau

SETTINGS = PixelSettings("probe", steps=40, batch_size=4, learning_rate=0.2, rule=reduce_on_plateau(10, 1e-3))
LIKE = torch.zeros(1)
SHAPE = (2, 3, 3)


def towards(target: float) -> Objective:
    def objective(pixels: Tensor) -> Mapping[str, Tensor]:
        return {"distance": (pixels - target).square().mean(), "size": 0.1 * pixels.square().mean()}

    return objective


def start(batch: PixelBatch) -> PixelStart:
    pixels = torch.randn(batch.size, *SHAPE, generator=batch.generator)
    return PixelStart(pixels, towards(1.0), torch.full((batch.size,), batch.index))


def optimise(
    *,
    num_samples: int = 10,
    seed: int = 0,
    folder: Path | None = None,
    begin: Callable[[PixelBatch], PixelStart] = start,
    finish: Callable[[Tensor, Tensor | None], None] | None = None,
    like: Tensor = LIKE,
) -> PixelResult:
    return optimise_pixels(SETTINGS, GenerationRequest(num_samples, seed, folder), like, begin, finish)


class TestOptimisePixels:
    def test_the_sum_of_the_terms_is_minimised(self) -> None:
        images = optimise().images
        # The minimum of (x - 1)^2 + 0.1 x^2 lies at 1 / 1.1; the first term alone would lead to 1.
        assert images.mean().item() == pytest.approx(1 / 1.1, abs=0.05)

    def test_last_batch_is_smaller_when_the_batch_size_does_not_divide(self) -> None:
        result = optimise(num_samples=10)
        assert tuple(result.images.shape) == (10, *SHAPE)
        assert result.labels is not None
        assert result.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]

    def test_images_are_plain_detached_float32(self) -> None:
        images = optimise(like=torch.zeros(1, dtype=torch.float64)).images
        assert images.dtype == torch.float32
        assert images.is_contiguous()
        assert not images.requires_grad

    def test_pixels_take_the_type_of_the_teacher(self) -> None:
        def begin(batch: PixelBatch) -> PixelStart:
            def objective(pixels: Tensor) -> Mapping[str, Tensor]:
                assert pixels.dtype == torch.float64
                return {"loss": pixels.square().mean()}

            return PixelStart(start(batch).pixels, objective)

        assert optimise(begin=begin, like=torch.zeros(1, dtype=torch.float64)).labels is None

    def test_pixels_lie_channels_last_on_the_cpu(self) -> None:
        def begin(batch: PixelBatch) -> PixelStart:
            def objective(pixels: Tensor) -> Mapping[str, Tensor]:
                assert pixels.is_contiguous(memory_format=torch.channels_last)  # about twice as fast
                return {"loss": pixels.square().mean()}

            return PixelStart(start(batch).pixels, objective)

        assert len(optimise(begin=begin).images) == 10

    def test_what_the_method_prepared_is_not_written_to(self) -> None:
        prepared = torch.zeros(4, 1, 3, 3)  # one channel: every layout of it in memory is the same
        optimise(num_samples=4, begin=lambda _: PixelStart(prepared, towards(1.0)))
        assert torch.equal(prepared, torch.zeros(4, 1, 3, 3))

    def test_history_holds_each_term_before_every_step(self) -> None:
        first = optimise(num_samples=4).history[0]
        pixels = torch.randn(4, *SHAPE, generator=batch_generator(0, 0))
        assert {name: tuple(term.shape) for name, term in first.items()} == {"distance": (40,), "size": (40,)}
        assert first["distance"][0].item() == pytest.approx((pixels - 1).square().mean().item(), rel=1e-5)
        assert first["distance"][-1] < 0.1 * first["distance"][0]

    def test_step_size_is_adapted_to_the_whole_loss_after_every_step(self) -> None:
        told: list[float] = []
        settings = replace(SETTINGS, rule=lambda _: told.append)
        (history,) = optimise_pixels(settings, GenerationRequest(4, 0), LIKE, start).history
        assert told == pytest.approx((history["distance"] + history["size"]).tolist())

    def test_weights_get_no_gradient(self) -> None:
        weight = torch.ones(1, requires_grad=True)

        def begin(batch: PixelBatch) -> PixelStart:
            return PixelStart(start(batch).pixels, lambda pixels: {"loss": (weight * pixels).square().mean()})

        optimise(begin=begin)
        assert weight.grad is None

    def test_works_when_gradients_are_switched_off_around_it(self) -> None:
        with torch.no_grad():
            images = optimise().images
        assert torch.equal(images, optimise().images)

    def test_error_names_provider_batch_and_step_when_the_loss_is_not_finite(self) -> None:
        def begin(batch: PixelBatch) -> PixelStart:
            calls: list[int] = []

            def objective(pixels: Tensor) -> Mapping[str, Tensor]:
                calls.append(1)
                factor = float("nan") if batch.index == 1 and len(calls) == 4 else 1.0
                return {"good": pixels.square().mean(), "bad": factor * pixels.mean()}

            return PixelStart(start(batch).pixels, objective)

        with pytest.raises(ProviderContractError, match=r"'probe', batch 1, step 3: .*bad nan.*learning_rate"):
            optimise(begin=begin)


class TestSettings:
    @staticmethod
    def run(settings: PixelSettings, objective: Objective, pixels: Tensor) -> PixelResult:
        request = GenerationRequest(len(pixels), 0)
        return optimise_pixels(settings, request, LIKE, lambda _: PixelStart(pixels, objective))

    def test_pixels_are_projected_after_every_step(self) -> None:
        seen: list[float] = []

        def objective(pixels: Tensor) -> Mapping[str, Tensor]:
            seen.append(pixels.max().item())
            return {"loss": -pixels.sum()}

        settings = replace(SETTINGS, steps=5, project=lambda pixels: pixels.clamp_(max=0.3))
        images = self.run(settings, objective, torch.zeros(1, 1, 2, 2)).images
        assert seen == pytest.approx([0.0, 0.2, 0.3, 0.3, 0.3])
        assert images.max().item() == pytest.approx(0.3)

    def test_betas_reach_the_optimiser(self) -> None:
        def objective(pixels: Tensor) -> Mapping[str, Tensor]:
            return {"loss": -pixels.sum() if next(calls) == 0 else pixels.sum()}

        moved = []
        for betas in ((0.9, 0.999), (0.0, 0.999)):
            calls = iter(range(2))
            settings = replace(SETTINGS, steps=2, betas=betas, learning_rate=0.1)
            moved.append(self.run(settings, objective, torch.zeros(1, 1, 2, 2)).images.mean().item())
        # Without momentum the second step undoes the first; with it, it is (0.9 * 0.1 - 0.1) / (1 - 0.81) of one.
        assert moved == pytest.approx([0.1 - 0.1 * 0.01 / 0.19, 0.0], abs=1e-4)

    @pytest.mark.parametrize(("keep_best_from", "expected"), [(None, 0.7), (0, 0.1), (3, 0.4), (6, 0.6)])
    def test_images_of_the_lowest_loss_are_kept_from_the_given_step_on(
        self, keep_best_from: int | None, expected: float
    ) -> None:
        losses = iter([5.0, 1.0, 3.0, 3.0, 2.0, 2.0, 6.0])

        def objective(pixels: Tensor) -> Mapping[str, Tensor]:
            return {"loss": next(losses) - pixels.sum() + pixels.sum().detach()}

        settings = replace(SETTINGS, steps=7, learning_rate=0.1, keep_best_from=keep_best_from)
        images = self.run(settings, objective, torch.zeros(1, 1, 2, 2)).images
        assert images.mean().item() == pytest.approx(expected, abs=1e-4)  # every step adds 0.1


class Scaled:
    """Unknowns of another kind: one factor that the images are a multiple of, halved by every step."""

    def __init__(self, pattern: Tensor) -> None:
        self.pattern, self.factor = pattern, torch.ones(1, requires_grad=True)
        self.tensors: Sequence[Tensor] = [self.factor]
        self.told: list[tuple[float, float]] = []

    def images(self) -> Tensor:
        return self.factor * self.pattern

    def step(self, gradients: Sequence[Tensor], loss: float) -> None:
        self.told.append((gradients[0].item(), loss))
        with torch.no_grad():
            self.factor.mul_(0.5)


def test_other_unknowns_than_pixels_are_stepped_with_their_gradients() -> None:
    pattern = torch.full((2, 1, 2, 2), 3.0)
    unknowns = Scaled(pattern)
    descent = Descent(unknowns, lambda images: {"loss": images.sum()})
    result = optimise_batches(replace(SETTINGS, steps=2), GenerationRequest(2, 0), lambda _: descent)
    assert unknowns.told == [(24.0, 24.0), (24.0, 12.0)]
    assert torch.equal(result.images, pattern / 4)
    assert not result.images.requires_grad


class TestSeeds:
    def test_the_same_seed_gives_the_same_images(self) -> None:
        assert torch.equal(optimise(seed=3).images, optimise(seed=3).images)

    def test_another_seed_gives_other_images(self) -> None:
        assert not torch.equal(optimise(seed=3).images, optimise(seed=4).images)

    def test_batches_differ_from_each_other(self) -> None:
        images = optimise(num_samples=8).images
        assert not torch.equal(images[:4], images[4:])

    def test_a_batch_does_not_depend_on_how_many_follow(self) -> None:
        assert torch.equal(optimise(num_samples=4).images, optimise(num_samples=12).images[:4])

    def test_generators_of_all_seeds_and_batches_are_unrelated(self) -> None:
        pairs = [(seed, index) for seed in (0, 1, 11, 2**63 - 1) for index in (0, 1, 10, 11)]
        firsts = {torch.randint(2**62, (1,), generator=batch_generator(*pair)).item() for pair in pairs}
        assert len(firsts) == len(pairs)


class TestResume:
    def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(self, tmp_path: Path) -> None:
        unbroken = optimise()
        made: list[int] = []

        def killed(batch: PixelBatch) -> PixelStart:
            if batch.index == 2:
                raise KeyboardInterrupt
            return start(batch)

        def resumed(batch: PixelBatch) -> PixelStart:
            made.append(batch.index)
            return start(batch)

        with pytest.raises(KeyboardInterrupt):
            optimise(folder=tmp_path, begin=killed)
        result = optimise(folder=tmp_path, begin=resumed)
        assert made == [2]
        assert torch.equal(result.images, unbroken.images)
        assert result.labels is not None
        assert unbroken.labels is not None
        assert torch.equal(result.labels, unbroken.labels)
        for found, expected in zip(result.history, unbroken.history, strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)

    def test_finish_sees_every_batch_in_turn_also_those_read_back(self, tmp_path: Path) -> None:
        seen: list[list[Tensor]] = [[], []]
        for into in seen:

            def finish(images: Tensor, _labels: Tensor | None, into: list[Tensor] = into) -> None:
                into.append(images)

            optimise(folder=tmp_path, finish=finish)
        assert [len(images) for images in seen[0]] == [4, 4, 2]
        assert all(torch.equal(*pair) for pair in zip(*seen, strict=True))
