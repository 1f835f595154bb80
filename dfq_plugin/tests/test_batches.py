"""Batches of a synthetic set: order, labels, shifts, and going on from a kept state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch, BatchSource, FixedBatches, view
from dfq_plugin.errors import InputError
from dfq_plugin.synthetic_set import SyntheticSet, describe_run

STUDENT = nn.Identity()


def make_set(count: int) -> SyntheticSet:
    """Every image holds its own number, and so do its labels."""
    numbers = torch.arange(count)
    images = numbers.float().reshape(-1, 1, 1, 1).expand(-1, 3, 8, 8).clone()
    soft = torch.stack([numbers.float(), -numbers.float()], dim=1)
    return SyntheticSet(images, numbers, soft, describe_run("noise", {}, 1, "any"))


def numbers(source: BatchSource, batches: int) -> list[list[int]]:
    return [source.next_batch(STUDENT).images[:, 0, 0, 0].int().tolist() for _ in range(batches)]


def shown(source: BatchSource, batches: int) -> list[int]:
    return [number for batch in numbers(source, batches) for number in batch]


def fixed(count: int, batch_size: int = 4, seed: int = 0, **options: Any) -> FixedBatches:
    return FixedBatches(make_set(count), batch_size, seed, **{"augment": "none", **options})


@pytest.mark.parametrize(("count", "sizes"), [(3, [3, 3]), (8, [4, 4, 4, 4]), (11, [4, 4, 4, 4])])
def test_passes_are_made_of_whole_batches(count: int, sizes: list[int]) -> None:
    source = fixed(count)
    found = numbers(source, 2 * source.batches_per_epoch)
    assert [len(batch) for batch in found] == sizes


def test_a_pass_shows_every_image_once_and_the_next_one_in_another_order() -> None:
    source = fixed(16)
    first, second = shown(source, 4), shown(source, 4)
    assert sorted(first) == sorted(second) == list(range(16))
    assert first != second


def test_labels_stay_with_their_images() -> None:
    batch = fixed(16, augment="shift").next_batch(STUDENT)
    drawn = batch.images[:, 0, 0, 0]
    assert batch.labels is not None
    assert batch.soft_labels is not None
    assert torch.equal(batch.labels.float(), drawn)
    assert torch.equal(batch.soft_labels, torch.stack([drawn, -drawn], dim=1))


def test_images_that_come_again_as_they_are_know_their_places() -> None:
    whole = fixed(16).next_batch(STUDENT)
    half = whole.part(1, 3).to(torch.zeros(1))
    assert whole.places is not None
    assert torch.equal(whole.places.float(), whole.images[:, 0, 0, 0])
    assert half.places is not None
    assert half.places.tolist() == whole.places[1:3].tolist()
    assert fixed(16, augment="shift").next_batch(STUDENT).places is None


def test_images_without_labels_give_batches_without() -> None:
    plain = SyntheticSet(torch.zeros(4, 3, 8, 8), None, None, describe_run("noise", {}, 1, "any"))
    batch = FixedBatches(plain, 2, 0).next_batch(STUDENT)
    assert batch.labels is None
    assert batch.soft_labels is None


def test_an_epoch_may_be_longer_or_shorter_than_a_pass() -> None:
    assert fixed(16).batches_per_epoch == 4
    source = fixed(16, batches_per_epoch=6)
    assert source.batches_per_epoch == 6
    assert sorted(shown(source, 4)) == list(range(16))


def test_same_seed_gives_same_batches_and_moves_no_global_state() -> None:
    state = torch.get_rng_state()
    one, two, other = (
        [source.next_batch(STUDENT).images for _ in range(3)]
        for source in (fixed(16, seed=s, augment="shift") for s in (3, 3, 4))
    )
    assert all(torch.equal(left, right) for left, right in zip(one, two, strict=True))
    assert not all(torch.equal(left, right) for left, right in zip(one, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("done", [2, 4, 5])
def test_another_source_goes_on_from_a_state(done: int) -> None:
    source, other = fixed(16, augment="shift"), fixed(16, seed=9, augment="shift")
    numbers(source, done)
    other.load_state_dict({name: tensor.clone() for name, tensor in source.state_dict().items()})
    for _ in range(6):
        assert torch.equal(source.next_batch(STUDENT).images, other.next_batch(STUDENT).images)


def test_a_state_of_other_images_is_refused() -> None:
    with pytest.raises(InputError, match="batches of other images"):
        fixed(16).load_state_dict(fixed(15).state_dict())


def test_nothing_has_to_be_prepared_and_nothing_is_watched() -> None:
    source = fixed(8)
    before = source.state_dict()
    source.prepare(STUDENT)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    assert source.curves() == {}


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(InputError, match="no image to learn from"):
        fixed(0)


class TestTargets:
    labels, soft = torch.tensor([1, 0]), torch.tensor([[0.2, 0.8], [1.0, 0.0]])

    def test_are_soft_labels_where_there_are_any(self) -> None:
        assert Batch(torch.zeros(2, 3, 8, 8), self.labels, self.soft).targets is self.soft
        assert Batch(torch.zeros(2, 3, 8, 8), self.labels).targets is self.labels

    def test_of_images_without_labels_are_an_error(self) -> None:
        with pytest.raises(InputError, match="no labels to learn"):
            _ = Batch(torch.zeros(2, 3, 8, 8)).targets


def test_to_takes_everything_along() -> None:
    batch = Batch(torch.zeros(2, 3, 8, 8), torch.tensor([1, 0]), torch.ones(2, 2))
    moved = batch.to(torch.zeros((), device="meta"))
    assert moved.images.is_meta
    assert moved.labels is not None
    assert moved.labels.is_meta
    assert moved.soft_labels is not None
    assert moved.soft_labels.is_meta
    assert len(moved) == 2


def test_moved_images_are_shifted_around_the_edges_and_mirrored() -> None:
    generator = torch.Generator().manual_seed(0)
    ramp = torch.arange(20.0).expand(1, 1, 30, 20) + 100 * torch.arange(30.0).reshape(30, 1)
    found = [view(ramp, "shift", generator) for _ in range(200)]
    expected = {
        (down, right, mirrored)
        for image in found
        for down, right, mirrored in [where(image)]
        if torch.equal(image, (ramp.flip(-1) if mirrored else ramp).roll((down, right), (-2, -1)))
    }
    assert {down for down, _, _ in expected} == set(range(-3, 4))
    assert {right for _, right, _ in expected} == set(range(-2, 3))
    assert {mirrored for _, _, mirrored in expected} == {False, True}
    assert 60 < sum(where(image)[2] for image in found) < 140


def test_crops_are_parts_of_each_image_and_half_of_them_mirrored() -> None:
    ramp = torch.arange(16.0).expand(400, 1, 16, 16).contiguous()
    found = view(ramp, "crop", torch.Generator().manual_seed(0))[:, 0, 0]
    mirrored = found[:, 0] > found[:, -1]
    width = (found[:, 0] - found[:, -1]).abs() + 1  # in pixels of the image, but for the blur at the ends
    assert 160 < int(mirrored.sum()) < 240
    assert width.min() < 8.5
    assert width.max() > 15
    assert len(found.unique(dim=0)) > 50  # every image has a part of its own
    assert torch.equal(view(ramp, "none", torch.Generator()), ramp)


def where(image: Tensor) -> tuple[int, int, bool]:
    """Down, right and mirrored, read off the ramp."""
    columns, rows = image[0, 0, 0] % 100, image[0, 0, :, 0] // 100
    mirrored = float(columns[1] - columns[0]) in {-1.0, 19.0}
    column, row = int((columns == 0).nonzero()), int((rows == 0).nonzero())
    right = (column - 19 if mirrored else column) % 20
    return (row + 15) % 30 - 15, (right + 10) % 20 - 10, mirrored
