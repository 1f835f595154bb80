"""The images that quality is measured on: never those the student was calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dfq_plugin.config import Config
from dfq_plugin.images import LabelledImages, load_images
from dfq_plugin.providers.registry import get_provider
from dfq_plugin.set_cache import synthesize
from dfq_plugin.teacher import Teacher


def choose_evidence(config: Config, teacher: Teacher, *used: Tensor) -> LabelledImages | None:
    """The images named in the config, else fresh synthetic ones of another seed, else none.

    Fresh synthetic images come from the method that made the calibration set, so agreement on them is optimistic; their
    description says so. Their labels are what the provider aimed at, not the truth, and are left out. A provider that
    hands out images from files has no fresh ones.

    Args:
        config: the whole job.
        teacher: the float network with its facts.
        *used: (N, C, H, W) each, what a student is calibrated on; none of these is among the result.
    """
    if config.validation.images != "none":
        return _without(load_images(config.validation.images, teacher.facts), used)
    if config.validation.held_out == 0 or not get_provider(config.calibration.provider).cacheable:
        return None
    seed = config.calibration.seed + 1
    settings = config.calibration.model_copy(update={"seed": seed, "num_samples": config.validation.held_out})
    images = synthesize(settings, teacher).images
    name = f"{len(images)} fresh synthetic images ({settings.provider}, seed {seed}): optimistic"
    return _without(LabelledImages(images, None, name, is_real=False), used)


def _without(found: LabelledImages, used: Sequence[Tensor]) -> LabelledImages | None:
    """Leave out every image that is in a calibration set; None when nothing is left."""
    known = {image.numpy().tobytes() for images in used for image in images}
    unseen = torch.tensor([image.numpy().tobytes() not in known for image in found.images])
    if bool(unseen.all()):
        return found
    if not bool(unseen.any()):
        return None
    labels = None if found.labels is None else found.labels[unseen]
    left_out = len(unseen) - int(unseen.sum())
    source = f"{found.source}, without {left_out} used for calibration"
    return replace(found, images=found.images[unseen], labels=labels, source=source)
