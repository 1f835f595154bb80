"""Baselines: the same settings once more, calibrated on noise or on real images, measured on the same evidence.

What a data-free student is worth shows beside these two: noise is what every method must beat, real images are what it
replaces. Each costs a quantization, and a fine-tuning where there is one, so none is made unless it is asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dfq_plugin import finetuning, quantization, validation
from dfq_plugin.config import Config, FinetuneSettings
from dfq_plugin.errors import DFQError
from dfq_plugin.images import LabelledImages, open_images
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import Teacher
from dfq_plugin.validation import Quality

logger = logging.getLogger("nncf.dfq_plugin.validate")

NOISE = "noise"


@dataclass(frozen=True)
class Baseline:
    """How good a student is that was made with the same settings on other images.

    Attributes:
        images: how many it was calibrated on.
        quality: of the student in PyTorch; None where it could not be made.
        seconds: what making and measuring it took.
        problem: why it could not be made.
    """

    images: int
    quality: Quality | None
    seconds: float
    problem: str = ""


def baseline_sets(config: Config, teacher: Teacher) -> dict[str, SyntheticSet]:
    """The images that each baseline is calibrated on, by its name in the config: as many as there are synthetic ones.

    Where the real images are those that quality is measured on as well, at most half of them are taken.

    Raises:
        ConfigError: ``mean`` and ``std`` are not known, which real images need.
        InputError: real images are missing or cannot be read.
    """
    return {name: _calibration_images(name, config, teacher) for name in dict.fromkeys(config.validation.baselines)}


def measure_baselines(
    config: Config, teacher: Teacher, sets: Mapping[str, SyntheticSet], evidence: LabelledImages | None
) -> dict[str, Baseline]:
    """Quantize, and fine-tune where the config says so, on each set; nothing is exported.

    Args:
        config: the whole job, whose settings are taken as they are.
        teacher: the float network with its facts.
        sets: from ``baseline_sets``.
        evidence: the images that the data-free student is measured on; without them nothing is made.
    """
    return {} if evidence is None else {name: _measure(config, teacher, sets[name], evidence) for name in sets}


def _calibration_images(name: str, config: Config, teacher: Teacher) -> SyntheticSet:
    count, seed = config.calibration.num_samples, config.calibration.seed
    if name == NOISE:
        return build_provider(NOISE, {})(teacher.network, teacher.facts, GenerationRequest(count, seed))
    path = Path(name.partition(":")[2]).expanduser()
    there = len(open_images(path, teacher.facts))
    count = min(count, max(there // 2, 1) if name == config.validation.images else there)
    provider = build_provider("folder", {"path": str(path)})
    return provider(teacher.network, teacher.facts, GenerationRequest(count, seed))


def _measure(config: Config, teacher: Teacher, images: SyntheticSet, evidence: LabelledImages) -> Baseline:
    start = time.perf_counter()
    try:
        student = quantization.quantize(teacher.network, images, config.quantize, config.target_device)
        finetuning.finetune(teacher.network, student, images, _finetune_settings(config))
    except DFQError as error:  # a loss that needs labels, say: the work that is compared with must not be lost for it
        logger.warning("Baseline on %s left out: %s", images.provenance.provider, error)
        return Baseline(len(images), None, time.perf_counter() - start, str(error))
    quality = validation.assess_network(student, teacher.network, evidence)
    logger.info("Baseline on %s: top-1 equal to the teacher %.2f %%.", images.provenance.provider, quality.agreement)
    return Baseline(len(images), quality, time.perf_counter() - start)


def _finetune_settings(config: Config) -> FinetuneSettings:
    """The config's; where an online provider has a batch size and an epoch of its own, a baseline has the same."""
    provider = build_provider(config.calibration.provider, config.calibration.params)
    if not provider.online:
        return config.finetune
    own = {name: getattr(provider, name) for name in ("batch_size", "steps_per_epoch") if hasattr(provider, name)}
    return config.finetune.model_copy(update=own)
