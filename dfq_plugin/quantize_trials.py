"""Trials of ``quantize``: its parts, and the loop over the blocks of the network, at two sizes each.

The images are noise, the results are thrown away. Where the time of the loop grows with the images alone (rounding by
second moments), the sizes are two counts of images; where blocks are reconstructed, two counts of steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from dfq_plugin import quantization
from dfq_plugin.config import Config, QuantizeSettings
from dfq_plugin.progress import watch_loops
from dfq_plugin.quantization.extension import ensure_extension
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.teacher import Teacher
from dfq_plugin.timing import timed

ENOUGH_S = 1.5  # how long a loop is watched, at least two steps
TELLING_S = 0.5  # a loop over the blocks that is over sooner tells more of what else the machine does
FEW_ITEMS, FEW_STEPS = 3, 4  # of the larger of two sizes; the smaller is 1
FEW_IMAGES = 8
COPIES = 2  # of the set: as it was made, and as one tensor on the device


@dataclass(frozen=True)
class _QuantizeRun:
    """Seconds of one trial of ``quantize``, those of the loop over the blocks of the network apart."""

    rest_s: float
    blocks_s: float


class QuantizeTrials:
    """Quantization on little: a set of noise, a student quantized on it, and what the stage takes.

    Args:
        config: the whole job.
        teacher: the float network with its facts.
    """

    def __init__(self, config: Config, teacher: Teacher) -> None:
        self._config, self._teacher = config, teacher
        self._wanted = config.calibration.num_samples
        sizes = (FEW_ITEMS * config.quantize.batch_size, config.finetune.batch_size, FEW_IMAGES)
        self.images = min(self._wanted, max(sizes))
        self._most_images = self.images

    @cached_property
    def synthetic(self) -> SyntheticSet:
        """A set of noise."""
        return self._noise(self.images)

    def _noise(self, images: int) -> SyntheticSet:
        self._most_images = max(images, self._most_images)
        facts = self._teacher.facts
        noise = torch.randn(images, *facts.input_shape, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(images) % facts.num_classes
        return SyntheticSet(noise, labels, None, describe_run("trial", {}, 0, facts.digest), facts.pixel_range)

    @cached_property
    def student(self) -> Student:
        """The student of the first trial of ``quantize``."""
        return self._first_quantized[1]

    @cached_property
    def _first_quantized(self) -> tuple[_QuantizeRun, Student]:
        return self._quantize(items=1, steps=1, images=self._few_images)

    @cached_property
    def _by_moments(self) -> bool:
        """Whether the time of the loop over the blocks grows with the images, and with nothing else."""
        settings = self._config.quantize
        return settings.rounding == "gptq" and not settings.reconstruction.steps

    @cached_property
    def _few_images(self) -> int:
        return max(1, self.images // FEW_ITEMS) if self._by_moments else self.images

    def _quantize(self, *, items: int, steps: int, images: int) -> tuple[_QuantizeRun, Student]:
        """Quantize on so many batches and images, with so many steps a block where blocks are reconstructed."""
        settings = self._config.quantize
        reconstruction = settings.reconstruction
        cut = {
            "num_init_samples": items * settings.batch_size,
            "reconstruction": reconstruction.model_copy(update={"steps": min(steps, reconstruction.steps)}),
            "allocation": type(settings.allocation)(),
        }
        with timed() as elapsed, watch_loops() as watch:
            student = self._run_quantize(settings.model_copy(update=cut), images)
        seconds = sum(loop.seconds for loop in watch.loops)
        return _QuantizeRun(elapsed() - seconds, seconds), student

    def _run_quantize(self, settings: QuantizeSettings, images: int) -> Student:
        part = replace(self._noise(images), labels=None)
        return quantization.quantize(self._teacher.network, part, settings, self._config.target_device)

    def quantize_seconds(self) -> float:
        """What ``quantize`` will take."""
        settings = self._config.quantize
        with timed() as elapsed:
            ensure_extension()
        build_s = elapsed()
        first, _ = self._first_quantized
        items = math.ceil(min(settings.num_init_samples, self._wanted) / settings.batch_size)
        total: float = build_s + first.rest_s + self._allocation_seconds()
        if items == 1 and not settings.reconstruction.steps and not self._by_moments:
            return total
        more = min(items, FEW_ITEMS)
        second, images = self._larger_trial(more)
        if more > 1:
            total += (items - 1) * max(0.0, second.rest_s - first.rest_s) / (more - 1)
        return total + self._blocks_seconds(first, second, images)

    def _larger_trial(self, items: int) -> tuple[_QuantizeRun, int]:
        """The second trial and its images: where those alone take time, enough of them to tell."""
        images = self.images
        while True:
            larger, _ = self._quantize(items=items, steps=FEW_STEPS, images=images)
            if not self._by_moments or larger.blocks_s > TELLING_S or images == self._wanted:
                return larger, images
            images = min(4 * images, self._wanted)

    def _blocks_seconds(self, first: _QuantizeRun, second: _QuantizeRun, images: int) -> float:
        between = max(0.0, second.blocks_s - first.blocks_s)
        if self._by_moments:
            image_s = between / max(1, images - self._few_images)
            return first.blocks_s + (self._wanted - self._few_images) * image_s
        steps = self._config.quantize.reconstruction.steps
        if steps <= 1:
            return first.blocks_s
        step_s = between / (min(FEW_STEPS, steps) - 1)
        passes_s = max(0.0, first.blocks_s - step_s)  # all images once through every block
        return passes_s * self._wanted / images + steps * step_s

    def _allocation_seconds(self) -> float:
        settings = self._config.quantize
        if settings.allocation == type(settings.allocation)():
            return 0.0
        without = settings.reconstruction.model_copy(update={"steps": 0})
        with watch_loops(ENOUGH_S) as watch:
            cut = {"num_init_samples": 1, "reconstruction": without}
            self._run_quantize(settings.model_copy(update=cut), self.images)
        loop = watch.loops[0]  # rounding by GPTQ would be another
        tried = min(settings.allocation.num_images, self.images)
        wanted = min(settings.allocation.num_images, self._wanted)
        return (loop.total or 0) * loop.step_s * wanted / tried

    def more_bytes(self) -> int:
        """Memory for the images of the whole job that no trial held, and for what lies between its blocks."""
        more, image = self._wanted - self._most_images, self.synthetic.images[:1]
        by_blocks = self._config.quantize.reconstruction.steps > 0 or self._by_moments
        between = quantization.bytes_between_blocks(self._teacher.network, image) if by_blocks else 0
        return more * (COPIES * image.nbytes + between)
