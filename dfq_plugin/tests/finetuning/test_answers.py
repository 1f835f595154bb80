"""What the teacher says: asked once where it may be, and always of the right image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch
from dfq_plugin.finetuning.answers import Answers


class Counting(nn.Module):
    """Says of an image what its pixels are, and counts the images that it was asked about."""

    def __init__(self, *, maps: bool = False) -> None:
        super().__init__()
        self.asked, self.maps = 0, maps

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        return images if self.maps else images.flatten(start_dim=1)


IMAGES = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 1, 3)


def batch_at(*places: int, known: bool = True) -> Batch:
    chosen = torch.tensor(places)
    return Batch(IMAGES[chosen], places=chosen if known else None)


def test_each_image_is_asked_about_once_and_answered_in_any_order() -> None:
    teacher = Counting()
    answers = Answers(teacher, keep=True)
    for places in [(0, 1, 2), (3, 5, 4), (4, 0, 5), (2, 2, 1)]:
        assert answers.of(batch_at(*places))[:, 0].tolist() == list(places)
    assert teacher.asked == 6


def test_a_batch_with_one_new_image_is_asked_about_whole() -> None:
    teacher = Counting()
    answers = Answers(teacher, keep=True)
    answers.of(batch_at(0, 1))
    assert answers.of(batch_at(1, 2))[:, 0].tolist() == [1, 2]
    assert teacher.asked == 4


def test_images_without_a_place_are_always_asked_about() -> None:
    teacher = Counting()
    answers = Answers(teacher, keep=True)
    for _ in range(2):
        answers.of(batch_at(0, 1, known=False))
    assert teacher.asked == 4
    assert not answers.state_dict()


def test_nothing_is_kept_where_it_must_not_be() -> None:
    for teacher, keep in [(Counting(), False), (Counting(maps=True), True)]:
        answers = Answers(teacher, keep=keep)
        for _ in range(2):
            answers.of(batch_at(0, 1))
        assert teacher.asked == 4
        assert not answers.state_dict()


def test_what_is_kept_can_be_handed_on() -> None:
    first, second = Answers(Counting(), keep=True), Answers(Counting(), keep=True)
    first.of(batch_at(3, 1))
    second.load_state_dict(first.state_dict())
    second.load_state_dict({})
    teacher = second._teacher
    assert second.of(batch_at(1, 3))[:, 0].tolist() == [1, 3]
    assert isinstance(teacher, Counting)
    assert teacher.asked == 0
