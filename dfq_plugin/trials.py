"""Trials of the stages: each is run for real on a little, and what grows with a setting is measured at two sizes.

The images are noise, the results are thrown away, and nothing is written but to a scratch folder. What a trial gives is
the seconds that the stage will take at its full size.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from dfq_plugin import export, finetuning, quantization, validation
from dfq_plugin.batches import BatchSource
from dfq_plugin.config import CalibrationSettings, Config, QuantizeSettings
from dfq_plugin.errors import ValidationError
from dfq_plugin.images import ImageSource, LabelledImages, open_images
from dfq_plugin.progress import watch_loops
from dfq_plugin.providers.base import GenerationRequest, Phase
from dfq_plugin.providers.registry import build_provider, get_provider
from dfq_plugin.quantization.extension import ensure_extension
from dfq_plugin.set_cache import is_cached
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.teacher import Teacher
from dfq_plugin.validation.parity import BATCH as PARITY_BATCH
from dfq_plugin.validation.parity import compare

ENOUGH_S = 1.5  # how long a loop is watched, at least two steps
TELLING_S = 0.5  # a loop over the blocks that is over sooner tells more of what else the machine does
FEW_ITEMS, FEW_STEPS = 3, 4  # of the larger of two sizes; the smaller is 1
FEW_IMAGES = 8
COPIES = 2  # of the set: as it was made, and as one tensor on the device


def generation_seconds(settings: CalibrationSettings, teacher: Teacher) -> float:
    """What ``synthesize`` will take; 0 when the set is in the cache."""
    if is_cached(settings, teacher.facts):
        return 0.0
    provider = build_provider(settings.provider, settings.params)
    request = GenerationRequest(settings.num_samples, settings.seed)
    return sum(phase.share * _phase_seconds(phase, teacher) for phase in provider.phases(teacher.facts, request))


def _phase_seconds(phase: Phase, teacher: Teacher) -> float:
    with _seconds() as elapsed, watch_loops(ENOUGH_S) as watch:
        phase.provider(teacher.network, teacher.facts, phase.request)
    loop = watch.loops[-1] if watch.loops else None
    if loop is None or loop.total is None or loop.done >= loop.total:
        return elapsed()
    return elapsed() - loop.seconds + loop.total * loop.step_s * _filled(phase)


def _filled(phase: Phase) -> float:
    """How full the batches are on average; a trial sees the first, which is full unless it is the only one."""
    size, count = getattr(phase.provider, "batch_size", None), phase.request.num_samples
    if size is None or phase.provider.online or count <= size:
        return 1.0
    return float(count / (size * math.ceil(count / size)))


@dataclass(frozen=True)
class _QuantizeRun:
    """Seconds of one trial of ``quantize``, those of the loop over the blocks of the network apart."""

    rest_s: float
    blocks_s: float


@dataclass(frozen=True)
class ProofSeconds:
    """Seconds of what comes after the student: its file, the float network's, the proof, and the quality."""

    export_s: float
    export_float_s: float
    validate_s: float
    assess_s: float


class Trials:
    """One job on little: a noise set, a student quantized on it, and what each stage takes.

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
        with _seconds() as elapsed, watch_loops() as watch:
            student = self._run_quantize(settings.model_copy(update=cut), images)
        seconds = sum(loop.seconds for loop in watch.loops)
        return _QuantizeRun(elapsed() - seconds, seconds), student

    def _run_quantize(self, settings: QuantizeSettings, images: int) -> Student:
        part = replace(self._noise(images), labels=None)
        return quantization.quantize(self._teacher.network, part, settings, self._config.target_device)

    def quantize_seconds(self) -> float:
        """What ``quantize`` will take."""
        settings = self._config.quantize
        with _seconds() as elapsed:
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

    def finetune_seconds(self) -> float:
        """What ``finetune`` will take, the warm-up of an online provider included."""
        settings = self._config.finetune
        if not settings.epochs:
            return 0.0
        source, warmup = self._source()
        with watch_loops(ENOUGH_S) as watch:
            finetuning.finetune(self._teacher.network, self.student, source or self.synthetic, settings)
        if source is None:
            per_epoch = settings.steps_per_epoch or max(1, self._wanted // settings.batch_size)
        else:
            per_epoch = source.batches_per_epoch
        steps = settings.epochs * per_epoch + settings.calibration_batches
        return steps * watch.loops[-1].step_s + self._warmup_seconds(source, warmup)

    def _source(self) -> tuple[BatchSource | None, int]:
        """The batches of an online provider without their warm-up, and how many steps that has."""
        settings = self._config.calibration
        provider = build_provider(settings.provider, settings.params)
        warmup = getattr(provider, "warmup_epochs", 0)
        if warmup:
            provider = provider.model_copy(update={"warmup_epochs": 0})
        request = GenerationRequest(self.images, settings.seed)
        source = provider.source(self._teacher.network, self._teacher.facts, request)
        return source, 0 if source is None else warmup * source.batches_per_epoch

    def _warmup_seconds(self, source: BatchSource | None, steps: int) -> float:
        if source is None or not steps:
            return 0.0
        tried = 2
        with _seconds() as elapsed:
            for _ in range(tried):
                source.next_batch(self.student)
        return steps * elapsed() / tried

    @cached_property
    def proof(self) -> ProofSeconds:
        """What exporting and proving will take."""
        config, teacher = self._config, self._teacher
        with tempfile.TemporaryDirectory() as scratch:
            path, plain = Path(scratch) / "model.onnx", Path(scratch) / "float.onnx"
            with _seconds() as export_s:
                export.export_onnx(self.student, path, config.export)
            with _seconds() as export_float_s:
                export.export_float(teacher.network, config.input_shape, plain, config.export)
            validate_s = self._validate_seconds(path, plain)
            return ProofSeconds(export_s(), export_float_s(), validate_s, self._assess_seconds(path))

    def _validate_seconds(self, path: Path, plain: Path) -> float:
        """Validate on one batch, then compare codes on two, and count up to as many as are asked for."""
        settings, images = self._config.validation, self.synthetic.images
        runs = min(2, settings.latency_runs)
        cut = settings.model_copy(update={"parity_codes": 1, "latency_runs": runs, "require_integer": False})
        latency = None
        with _seconds() as elapsed, suppress(ValidationError):
            latency = validation.validate(path, self.student, images, cut, plain).latency
        seconds = elapsed()
        if latency is not None:
            seconds += (settings.latency_runs - runs) * (latency.float_ms + latency.integer_ms) / 1000
        with _seconds() as elapsed:
            one = compare(path, images[:PARITY_BATCH].numpy(), sys.maxsize)
        one_s = elapsed()
        with _seconds() as elapsed:
            compare(path, images[: 2 * PARITY_BATCH].numpy(), sys.maxsize)
        batches = math.ceil(min(self._wanted / PARITY_BATCH, settings.parity_codes / max(one.codes_compared, 1)))
        return seconds + (batches - 1) * max(0.0, elapsed() - one_s)

    def _assess_seconds(self, path: Path) -> float:
        count = self._evidence_count
        if not count:
            return 0.0

        def assess(images: int) -> float:
            evidence = LabelledImages(self.synthetic.images[:images], None, "trial")
            with _seconds() as elapsed:
                validation.assess(path, self.student, self._teacher.network, evidence)
            return elapsed()

        few = min(FEW_IMAGES, self.images)
        one_s = assess(1)
        return one_s + (count - 1) * max(0.0, assess(few) - one_s) / max(1, few - 1)

    def evidence_seconds(self) -> float:
        """What it will take to have the images that quality is measured on."""
        settings = self._config.calibration
        if self._real_images is None:
            seed = settings.seed + 1
            fresh = settings.model_copy(update={"seed": seed, "num_samples": self._evidence_count})
            return generation_seconds(fresh, self._teacher) if self._evidence_count else 0.0
        few = min(FEW_IMAGES, len(self._real_images))
        with _seconds() as elapsed, watch_loops():
            self._real_images.read(range(few))
        return elapsed() * len(self._real_images) / few

    @cached_property
    def _real_images(self) -> ImageSource | None:
        kind, _, place = self._config.validation.images.partition(":")
        return None if kind == "none" else open_images(Path(place).expanduser(), self._teacher.facts)

    @cached_property
    def _evidence_count(self) -> int:
        if self._real_images is not None:
            return len(self._real_images)
        held_out, provider = self._config.validation.held_out, self._config.calibration.provider
        return held_out if get_provider(provider).cacheable else 0

    def more_bytes(self) -> int:
        """Memory for what the whole job holds beside what the trials held: more images."""
        wanted, image = self._wanted - self._most_images, 4 * math.prod(self._config.input_shape)
        by_blocks = self._config.quantize.reconstruction.steps > 0 or self._by_moments
        between = (
            quantization.bytes_between_blocks(self._teacher.network, self.synthetic.images[:1]) if by_blocks else 0
        )
        real = 0 if self._real_images is None else len(self._real_images) * image
        return wanted * (COPIES * image + between) + real


@contextmanager
def _seconds() -> Iterator[Callable[[], float]]:
    """Time a block; what it gives tells the seconds up to now, or those of the block once that has ended."""
    start, ended = time.perf_counter(), list[float]()
    try:
        yield lambda: (ended[0] if ended else time.perf_counter()) - start
    finally:
        ended.append(time.perf_counter())
