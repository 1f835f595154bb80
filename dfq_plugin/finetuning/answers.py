"""What the teacher says, computed once for images that come again exactly as they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dfq_plugin.batches import Batch


class Answers:
    """The teacher's logits, kept by the places of the images that have one.

    Args:
        teacher: the float network.
        keep: whether they may be kept; not where the teacher has to run for its features too.
    """

    def __init__(self, teacher: nn.Module, *, keep: bool) -> None:
        self._teacher, self._keep = teacher, keep
        self._kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def of(self, batch: Batch) -> Tensor:
        """What the teacher says of a batch: (N, classes), or whatever it gives."""
        if batch.places is None or not self._keep:
            return self._ask(batch.images)
        places = batch.places.tolist()
        if not self._kept.keys() >= set(places):
            logits = self._ask(batch.images)
            if logits.ndim > 2:  # maps of classes: too large to be kept for every image
                return logits
            self._kept.update(zip(places, logits, strict=True))
        return torch.stack([self._kept[place].to(batch.images.device) for place in places])  # a file's are on the CPU

    def state_dict(self) -> dict[str, Tensor]:
        """What is kept, for a run that goes on: asked again in another batch, the last bits might differ."""
        if not self._kept:
            return {}
        return {"places": torch.tensor(list(self._kept)), "logits": torch.stack(list(self._kept.values()))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Keep what was kept where the state comes from."""
        if state:
            self._kept = dict(zip(state["places"].tolist(), state["logits"], strict=True))

    def _ask(self, images: Tensor) -> Tensor:
        logits: Tensor = self._teacher(images)
        return logits
