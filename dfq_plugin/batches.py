"""Batches to learn from: the one interface between whoever makes images and whoever trains a student on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn

from dfq_plugin.augment import MIRROR_PROBABILITY, crop_and_resize, draw_crops, jitter
from dfq_plugin.config.finetune_settings import Augmentation
from dfq_plugin.errors import InputError
from dfq_plugin.synthetic_set import SyntheticSet

SHIFT = 0.1  # of each side, at most
MIN_AREA = 0.25  # of the image; the smallest part of it that is shown by itself


@dataclass(frozen=True)
class Batch:
    """Images with what is known about them.

    Attributes:
        images: (N, C, H, W) float32, normalised as the teacher expects its input.
        labels: (N,) int64, or None.
        soft_labels: (N, num_classes) probabilities, or None.
        places: (N,) int64, where each image stands in a set of images that come again exactly as they are, so that what
            the teacher says of it can be kept; None where none does.
    """

    images: Tensor
    labels: Tensor | None = None
    soft_labels: Tensor | None = None
    places: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, stop: int) -> Batch:
        """The images from ``start`` up to ``stop``, with what is known about them."""
        return self._mapped(lambda tensor: tensor[start:stop])

    @property
    def targets(self) -> Tensor:
        """What a classifier should say, as ``torch.nn.functional.cross_entropy`` takes it: soft labels, or labels.

        Raises:
            InputError: the images have neither.
        """
        targets = self.labels if self.soft_labels is None else self.soft_labels
        if targets is None:
            msg = (
                "These images have no labels to learn; take a provider that gives them, such as 'intraq', or a loss "
                "without cross_entropy."
            )
            raise InputError(msg)
        return targets

    def to(self, like: Tensor) -> Batch:
        """The same batch on the device of ``like``."""
        return self._mapped(lambda tensor: tensor.to(like.device))

    def at(self, places: Tensor) -> Batch:
        """The images at ``places``, (M,) int64, with what is known about them."""
        return self._mapped(lambda tensor: tensor[places])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        known = (self.labels, self.soft_labels, self.places)
        return Batch(change(self.images), *(None if tensor is None else change(tensor) for tensor in known))


class BatchSource(Protocol):
    """Gives batches for as long as they are asked for; two sources made alike give the same ones."""

    @property
    def batches_per_epoch(self) -> int:
        """How many batches make an epoch."""

    def prepare(self, student: nn.Module) -> None:
        """Do what comes before the first batch is worth learning from; a second call does nothing."""

    def next_batch(self, student: nn.Module) -> Batch:
        """Give a batch, detached; a source that adapts to the student takes one step of its own against it."""

    def curves(self) -> Mapping[str, tuple[float, ...]]:
        """What happened inside the source, by name, one mean value per epoch; may be empty."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a source made alike needs to go on from here."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from where the source of ``state`` stood."""


class FixedBatches:
    """Whole batches of a synthetic set in an order that is new in every pass.

    Fewer images than a batch make one smaller batch; what is left over of a pass waits for another.

    Args:
        synthetic: the images, with their labels if they have any.
        batch_size: images a batch.
        seed: of the order and the views.
        augment: "shift" moves each batch by up to a tenth and mirrors half of them, "crop" enlarges a part of each
            image, at least a quarter of it, and mirrors half of the images.
        batches_per_epoch: None is one pass over the images.

    Raises:
        InputError: the set has no image.
    """

    def __init__(
        self,
        synthetic: SyntheticSet,
        batch_size: int,
        seed: int,
        *,
        augment: Augmentation = "shift",
        batches_per_epoch: int | None = None,
    ) -> None:
        if not len(synthetic):
            msg = "The synthetic set holds no image to learn from; generate one with num_samples of at least 1."
            raise InputError(msg)
        places = torch.arange(len(synthetic)) if augment == "none" else None
        self._all = Batch(synthetic.images, synthetic.labels, synthetic.soft_labels, places)
        self._batch_size, self._augment = batch_size, augment
        self._random = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = self._pass = max(1, len(synthetic) // batch_size)
        self._per_epoch = batches_per_epoch or self._pass

    @property
    def batches_per_epoch(self) -> int:
        return self._per_epoch

    def prepare(self, student: nn.Module) -> None:
        pass

    def next_batch(self, student: nn.Module) -> Batch:  # noqa: ARG002 - these batches do not depend on it
        if self._position == self._pass:
            self._order = torch.randperm(len(self._all), generator=self._random)
            self._position = 0
        chosen = self._order[self._position * self._batch_size :][: self._batch_size]
        self._position += 1
        batch = self._all.at(chosen)
        return replace(batch, images=view(batch.images, self._augment, self._random))

    def curves(self) -> Mapping[str, tuple[float, ...]]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "random": self._random.get_state(),
            "order": self._order.clone(),
            "position": torch.tensor(self._position),
            "images": torch.tensor(self._digest),
        }

    @cached_property
    def _digest(self) -> int:
        """What the images are known by."""
        digest = hashlib.sha256(self._all.images.contiguous().numpy().data).digest()
        return int.from_bytes(digest[:7], "big")

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if int(state["images"]) != self._digest:
            msg = "The state to go on from is that of batches of other images."
            raise InputError(msg)
        self._random.set_state(state["random"])
        self._order, self._position = state["order"].clone(), int(state["position"])


def view(images: Tensor, kind: Augmentation, random: torch.Generator) -> Tensor:
    """Another view of a batch; the teacher labels whatever it is shown, so it is as good an example as the original.

    Args:
        images: (N, C, H, W).
        kind: what to do to them.
        random: Where the random numbers come from.
    """
    if kind == "shift":
        return jitter(images, SHIFT, mirror=True, generator=random)
    if kind == "crop":
        rows, columns = images.shape[2:]
        crops = draw_crops(
            len(images), (rows, columns), min_area=MIN_AREA, mirror_probability=MIRROR_PROBABILITY, generator=random
        )
        return crop_and_resize(images, crops)
    return images
