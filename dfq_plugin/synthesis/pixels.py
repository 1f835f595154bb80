"""The loop that optimises images batch by batch, shared by every method that does so."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dfq_plugin.batch_store import BatchStore
from dfq_plugin.memory import give_back_freed_memory
from dfq_plugin.processes import processes
from dfq_plugin.progress import track
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.room import room_for_images
from dfq_plugin.synthesis.curves import curves_of
from dfq_plugin.synthesis.descent import (
    IMAGES,
    LABELS,
    LOSS,
    Descent,
    PixelBatch,
    Pixels,
    PixelSettings,
    PixelStart,
    descend,
)

logger = logging.getLogger("nncf.dfq_plugin.synthesize")


@dataclass(frozen=True)
class PixelResult:
    """Optimised images, and how the loss went.

    Attributes:
        images: (N, C, H, W) float32 on the CPU.
        labels: (N,) int64 on the CPU, or None.
        history: For each batch, each term of the loss before every step, (steps,).
    """

    images: Tensor
    labels: Tensor | None
    history: tuple[dict[str, Tensor], ...]

    @property
    def curves(self) -> dict[str, Any]:
        """The history in short, for the provenance of the set."""
        return curves_of(self.history)


def optimise_pixels(
    settings: PixelSettings,
    request: GenerationRequest,
    like: Tensor,
    start: Callable[[PixelBatch], PixelStart],
    finish: Callable[[Tensor, Tensor | None], None] | None = None,
) -> PixelResult:
    """Optimise the pixels of ``request.num_samples`` images; see ``optimise_batches``.

    Args:
        settings: How.
        request: How many, from which seed.
        like: A weight of the teacher; the pixels are optimised on its device and in its type.
        start: Prepares a batch; called for those only that are not finished already.
        finish: Called with the images and labels of every finished batch in turn.

    Raises:
        DivergedError: The loss is not finite.
    """

    def prepare(batch: PixelBatch) -> Descent:
        started = start(batch)
        return Descent(Pixels(settings, started.pixels, like), started.objective, started.labels)

    return optimise_batches(settings, request, prepare, finish)


def optimise_batches(
    settings: PixelSettings,
    request: GenerationRequest,
    prepare: Callable[[PixelBatch], Descent],
    finish: Callable[[Tensor, Tensor | None], None] | None = None,
) -> PixelResult:
    """Optimise ``request.num_samples`` images, resuming from finished batches in ``request.checkpoint_folder``.

    The processes of a job take turns; each ends up with all images, the same ones that a single process makes.

    Args:
        settings: How.
        request: How many, from which seed.
        prepare: Prepares a batch; called for those only that are not finished already.
        finish: Called with the images and labels of every finished batch in turn, also of one that is only read back,
            for methods in which a batch depends on earlier ones.

    Raises:
        DivergedError: The loss is not finite.
    """
    crew, count = processes(), math.ceil(request.num_samples / settings.batch_size)
    together = count if finish is None else settings.together
    own = sum(crew.takes(index) for index in range(count))
    result = _Growing(request)
    with track(own * settings.steps, f"Optimising {request.num_samples} images ({settings.provider})") as bar:
        maker = _Maker(settings, request, prepare, bar.advance)
        for begin in range(0, count, together):
            wave = range(begin, min(begin + together, count))
            made = {index: maker.make(index) for index in wave if crew.takes(index)}
            for index in wave:
                tensors = crew.hand_out(made.get(index), index)
                if finish is not None:
                    finish(tensors[IMAGES], tensors.get(LABELS))
                result.add(tensors)
    made_all = result.whole()
    first, last = (_mean_loss(made_all.history, step) for step in (0, -1))
    logger.info("%s: %d images, loss %.4g -> %.4g", settings.provider, request.num_samples, first, last)
    return made_all


class _Maker:
    """Makes one batch after the other, or reads back what a killed run has finished."""

    def __init__(
        self,
        settings: PixelSettings,
        request: GenerationRequest,
        prepare: Callable[[PixelBatch], Descent],
        advance: Callable[[int], None],
    ) -> None:
        self._settings, self._request, self._prepare, self._advance = settings, request, prepare, advance
        self._store = BatchStore(request.checkpoint_folder)

    def make(self, index: int) -> dict[str, Tensor]:
        settings, request = self._settings, self._request
        tensors = self._store.load(index)
        if tensors is not None:
            self._advance(settings.steps)
            return tensors
        size = min(settings.batch_size, request.num_samples - index * settings.batch_size)
        batch = PixelBatch(index, size, batch_generator(request.seed, index))
        tensors = descend(settings, batch, self._prepare(batch), self._advance)
        self._store.save(index, tensors)
        give_back_freed_memory()
        return tensors


def batch_generator(seed: int, index: int) -> torch.Generator:
    """Make the random number generator of one batch, on the CPU, unrelated to those of all other seeds and batches."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class _Growing:
    """The result as it grows; the images lie in one place from the beginning, so that they are never there twice."""

    def __init__(self, request: GenerationRequest) -> None:
        self._request, self._filled = request, 0
        self._images = torch.empty(0)
        self._labels: list[Tensor] = []
        self._history: list[dict[str, Tensor]] = []

    def add(self, batch: Mapping[str, Tensor]) -> None:
        images = batch[IMAGES]
        if not self._filled:
            shape = (self._request.num_samples, *images.shape[1:])
            self._images = room_for_images(shape, self._request.checkpoint_folder)
        self._images[self._filled : self._filled + len(images)] = images
        self._filled += len(images)
        self._labels += [batch[LABELS]] if LABELS in batch else []
        self._history.append({name.removeprefix(LOSS): term for name, term in batch.items() if name.startswith(LOSS)})

    def whole(self) -> PixelResult:
        return PixelResult(self._images, torch.cat(self._labels) if self._labels else None, tuple(self._history))


def _mean_loss(history: Sequence[Mapping[str, Tensor]], step: int) -> float:
    return sum(float(term[step]) for terms in history for term in terms.values()) / len(history)
