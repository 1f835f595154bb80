"""Trials of the stages: each is run for real on a little, and what grows with a setting is measured at two sizes.

The images are noise, the results are thrown away, and nothing is written but to a scratch folder. What a trial gives is
the seconds that the stage will take at its full size.
"""

from __future__ import annotations

import math
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dfq_plugin import export, finetuning, validation
from dfq_plugin.batches import BatchSource
from dfq_plugin.config import CalibrationSettings
from dfq_plugin.errors import ValidationError
from dfq_plugin.images import ImageSource, LabelledImages, open_images
from dfq_plugin.progress import watch_loops
from dfq_plugin.providers.base import GenerationRequest, Phase
from dfq_plugin.providers.registry import build_provider, get_provider
from dfq_plugin.quantize_trials import ENOUGH_S, FEW_IMAGES, QuantizeTrials
from dfq_plugin.set_cache import is_cached
from dfq_plugin.teacher import Teacher
from dfq_plugin.timing import timed
from dfq_plugin.validation.parity import BATCH as PARITY_BATCH
from dfq_plugin.validation.parity import compare


def generation_seconds(settings: CalibrationSettings, teacher: Teacher) -> float:
    """What ``synthesize`` will take; 0 when the set is in the cache."""
    if is_cached(settings, teacher.facts):
        return 0.0
    provider = build_provider(settings.provider, settings.params)
    request = GenerationRequest(settings.num_samples, settings.seed)
    return sum(phase.share * _phase_seconds(phase, teacher) for phase in provider.phases(teacher.facts, request))


def _phase_seconds(phase: Phase, teacher: Teacher) -> float:
    with timed() as elapsed, watch_loops(ENOUGH_S) as watch:
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
class ProofSeconds:
    """Seconds of what comes after the student: its file, the float network's, the proof, and the quality."""

    export_s: float
    export_float_s: float
    validate_s: float
    assess_s: float


class Trials(QuantizeTrials):
    """One job on little: the trials of ``quantize``, and on their student those of what comes after it."""

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
        with timed() as elapsed:
            for _ in range(tried):
                source.next_batch(self.student)
        return steps * elapsed() / tried

    @cached_property
    def proof(self) -> ProofSeconds:
        """What exporting and proving will take."""
        config, teacher = self._config, self._teacher
        with tempfile.TemporaryDirectory() as scratch:
            path, plain = Path(scratch) / "model.onnx", Path(scratch) / "float.onnx"
            with timed() as export_s:
                export.export_onnx(self.student, path, config.export)
            with timed() as export_float_s:
                export.export_float(teacher.network, config.input_shape, plain, config.export)
            validate_s = self._validate_seconds(path, plain)
            return ProofSeconds(export_s(), export_float_s(), validate_s, self._assess_seconds(path))

    def _validate_seconds(self, path: Path, plain: Path) -> float:
        """Validate on one batch, then compare codes on two, and count up to as many as are asked for."""
        settings, images = self._config.validation, self.synthetic.images
        runs = min(2, settings.latency_runs)
        cut = settings.model_copy(update={"parity_codes": 1, "latency_runs": runs, "require_integer": False})
        latency = None
        with timed() as elapsed, suppress(ValidationError):
            latency = validation.validate(path, self.student, images, cut, plain).latency
        seconds = elapsed()
        if latency is not None:
            seconds += (settings.latency_runs - runs) * (latency.float_ms + latency.integer_ms) / 1000
        with timed() as elapsed:
            one = compare(path, images[:PARITY_BATCH].numpy(), sys.maxsize)
        one_s = elapsed()
        with timed() as elapsed:
            compare(path, images[: 2 * PARITY_BATCH].numpy(), sys.maxsize)
        batches = math.ceil(min(self._wanted / PARITY_BATCH, settings.parity_codes / max(one.codes_compared, 1)))
        return seconds + (batches - 1) * max(0.0, elapsed() - one_s)

    def _assess_seconds(self, path: Path) -> float:
        count = self._evidence_count
        if not count:
            return 0.0

        def assess(images: int) -> float:
            evidence = LabelledImages(self.synthetic.images[:images], None, "trial")
            with timed() as elapsed:
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
        with timed() as elapsed, watch_loops():
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
        real = 0 if self._real_images is None else 4 * math.prod(self._config.input_shape) * len(self._real_images)
        return super().more_bytes() + real
