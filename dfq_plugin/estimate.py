"""What ``--dry-run`` tells: the stages of a job, with the time and memory that they would take on this machine.

Both come from trials, a few real steps of every stage (``trials.py``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dfq_plugin.config import Config
from dfq_plugin.memory import freed_memory_kept
from dfq_plugin.pipeline import MODEL, STUDENT, SYNTHETIC
from dfq_plugin.set_cache import is_cached
from dfq_plugin.teacher import Teacher, load_teacher
from dfq_plugin.timing import peak_memory_bytes
from dfq_plugin.trials import Trials, generation_seconds
from dfq_plugin.wording import say_bytes, say_count, say_seconds

logger = logging.getLogger("nncf.dfq_plugin.estimate")

# What each verb does; a set that is there already is not made again by any verb but ``run`` and ``generate``.
STAGES_OF = {
    "run": ("teacher", "synthesize", "quantize", "finetune", "export", "validate"),
    "generate": ("teacher", "synthesize"),
    "quantize": ("teacher", "synthesize", "quantize"),
    "finetune": ("teacher", "finetune"),
    "export": ("teacher", "export"),
    "validate": ("teacher", "validate"),
    "report": ("teacher",),
}
WRITES = {
    "run": ("config.json", SYNTHETIC, STUDENT, MODEL, "report.json", "report.html", "report.md"),
    "generate": (SYNTHETIC,),
    "quantize": (SYNTHETIC, STUDENT),
    "finetune": (STUDENT,),
    "export": (MODEL,),
    "validate": (),
    "report": ("report.json", "report.html", "report.md"),
}


@dataclass(frozen=True)
class StageEstimate:
    """One stage: what it would do, and the seconds it would take."""

    stage: str
    what: str
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What a job would do and take.

    Attributes:
        verb: the verb that was asked about.
        stages: in the order in which they would run.
        seconds: of all of them.
        peak_memory_bytes: the most memory the process would hold; None where the system does not tell.
        writes: the files it would write, and whether they are there already.
        measured_in_s: what the trials took.
    """

    verb: str
    stages: tuple[StageEstimate, ...]
    seconds: float
    peak_memory_bytes: int | None
    writes: dict[str, bool]
    measured_in_s: float

    def to_json(self) -> dict[str, Any]:
        """Give the estimate as plain data."""
        return {"dry_run": True, **asdict(self)}


def estimate(config: Config, verb: str = "run") -> Estimate:
    """Try every stage of a verb on a little, and say what the whole would take.

    Args:
        config: the whole job.
        verb: "run", or the verb of a stage.

    Raises:
        DFQError: whatever the job itself would run into so far.
    """
    start = time.perf_counter()
    logger.info("Trying every stage of `dfq %s` on a little, to see what it takes; nothing is kept.", verb)
    with _quiet_log(), freed_memory_kept():  # as in the stages
        teacher = load_teacher(config.model, config.input_shape)
        loaded_s = time.perf_counter() - start
        stages = [StageEstimate("teacher", _describe_teacher(config, teacher), loaded_s)]
        trials = Trials(config, teacher)
        stages += [
            StageEstimate(name, what, measure())
            for name, what, measure in _stages(config, trials, teacher, verb)
            if name in STAGES_OF[verb]
        ]
        peak = peak_memory_bytes()
        more = trials.more_bytes() if len(stages) > 1 else 0
    return Estimate(
        verb=verb,
        stages=tuple(stages),
        seconds=sum(stage.seconds for stage in stages),
        peak_memory_bytes=None if peak is None else peak + more,
        writes={str(path): path.exists() for path in (Path(config.output_dir) / name for name in WRITES[verb])},
        measured_in_s=time.perf_counter() - start,
    )


def _stages(
    config: Config, trials: Trials, teacher: Teacher, verb: str
) -> Iterator[tuple[str, str, Callable[[], float]]]:
    """Every stage with what it does and how to find out what it takes."""
    calibration, epochs = config.calibration, config.finetune.epochs
    there = verb not in {"run", "generate"} and (Path(config.output_dir) / SYNTHETIC).exists()
    images = f"{say_count(calibration.num_samples)} images by '{calibration.provider}', seed {calibration.seed}"
    if there or is_cached(calibration, teacher.facts):
        images += f", taken from {'the output folder' if there else 'the cache'}"

    def synthesize() -> float:
        evidence_s = trials.evidence_seconds() if verb == "run" else 0.0
        return evidence_s + (0.0 if there else generation_seconds(calibration, teacher))

    yield "synthesize", images, synthesize
    yield "quantize", _describe_bits(config), trials.quantize_seconds
    yield "finetune", f"{epochs} epochs of distillation" if epochs else "off", trials.finetune_seconds

    def export() -> float:
        return trials.proof.export_s + (trials.proof.export_float_s if verb == "run" else 0.0)

    def validate() -> float:
        more = trials.proof.assess_s if verb == "run" else trials.proof.export_float_s
        return trials.proof.validate_s + more

    yield "export", f"ONNX, weights packed as {config.export.packing}", export
    proof = f"{say_count(config.validation.parity_codes)} codes, {config.validation.latency_runs} timed runs"
    yield "validate", proof, validate


def _describe_teacher(config: Config, teacher: Teacher) -> str:
    weights = sum(parameter.numel() for parameter in teacher.network.parameters())
    return f"{config.model.source}, {say_count(weights)} weights, input {'x'.join(map(str, config.input_shape))}"


def _describe_bits(config: Config) -> str:
    settings = config.quantize
    bits = f"weights {settings.weight_bits} bits, activations {settings.activation_bits or 'float'}"
    steps = settings.reconstruction.steps
    return bits + (f", {steps} steps of reconstruction a block" if steps else "")


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Let the trials say nothing but warnings: what they do is not what the job does."""
    log = logging.getLogger("nncf")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


def format_estimate(estimate: Estimate) -> str:
    """Lay the estimate out as text: the sum, the stages, the files."""
    memory = "" if estimate.peak_memory_bytes is None else f" and {say_bytes(estimate.peak_memory_bytes)} of memory"
    lines = [f"`dfq {estimate.verb}` would take about {say_seconds(estimate.seconds)}{memory}. Nothing was done.", ""]
    widths = [
        max(len(text) for text in column) for column in zip(*((s.stage, s.what) for s in estimate.stages), strict=True)
    ]
    lines += [f"{s.stage:<{widths[0]}}  {s.what:<{widths[1]}}  {say_seconds(s.seconds)}" for s in estimate.stages]
    lines.append("")
    lines += [f"{'replaces' if there else 'writes'} {path}" for path, there in estimate.writes.items()]
    lines.append(f"From {say_seconds(estimate.measured_in_s)} of trials on this machine; right within a factor of two.")
    return "\n".join(lines)
