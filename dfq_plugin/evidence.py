"""The images that quality is measured on: never those the student was calibrated on."""

from __future__ import annotations

from dfq_plugin.config import Config
from dfq_plugin.images import LabelledImages, load_images
from dfq_plugin.set_cache import synthesize
from dfq_plugin.teacher import Teacher


def choose_evidence(config: Config, teacher: Teacher) -> LabelledImages | None:
    """The images named in the config, else fresh synthetic ones of another seed, else none.

    Fresh synthetic images come from the method that made the calibration set, so agreement on them is optimistic; their
    description says so. Their labels are what the provider aimed at, not the truth, and are left out.
    """
    if config.validation.images != "none":
        return load_images(config.validation.images, teacher.facts)
    if config.validation.held_out == 0:
        return None
    seed = config.calibration.seed + 1
    settings = config.calibration.model_copy(update={"seed": seed, "num_samples": config.validation.held_out})
    images = synthesize(settings, teacher).images
    name = f"{len(images)} fresh synthetic images ({settings.provider}, seed {seed}): optimistic"
    return LabelledImages(images, None, name)
