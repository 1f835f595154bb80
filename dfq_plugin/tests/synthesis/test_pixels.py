from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dfq_plugin.errors import ProviderContractError
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.synthesis.pixels import (
    Objective,
    PixelBatch,
    PixelResult,
    PixelSettings,
    PixelStart,
    batch_generator,
    optimise_pixels,
    reduce_on_plateau,
)

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


class TestReduceOnPlateau:
    def test_step_size_falls_to_a_tenth_after_patience_and_stops_at_the_floor(self) -> None:
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.5)
        adapt = reduce_on_plateau(patience=2, min_learning_rate=0.01)(optimizer)
        rates = []
        for _ in range(10):
            adapt(1.0)
            rates.append(optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.01] * 4)

    def test_step_size_stays_while_the_loss_falls(self) -> None:
        optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=0.5)
        adapt = reduce_on_plateau(patience=2, min_learning_rate=0.01)(optimizer)
        for step in range(10):
            adapt(1.0 / (step + 1))
        assert optimizer.param_groups[0]["lr"] == 0.5
