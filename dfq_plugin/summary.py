"""Put what the stages found into a report."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from dfq_plugin.baselines import Baseline
from dfq_plugin.batchnorm_match import IMAGES, LayerMatch
from dfq_plugin.config import Config
from dfq_plugin.finetuning import History
from dfq_plugin.hardware import EXACT_SUMS, read_processor
from dfq_plugin.images import LabelledImages
from dfq_plugin.machine import installed_version
from dfq_plugin.report import BitsRow, Census, Parity, Pictures, Report
from dfq_plugin.report.sections import (
    Accuracy,
    AgainstTeacher,
    BaselineRow,
    LayerRow,
    MatchRow,
    SynthesisCurves,
    no_accuracy,
    no_comparison,
)
from dfq_plugin.student import Student
from dfq_plugin.synthesis.curves import find_curves, without_curves
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import PIXELS_NOT_KNOWN, Teacher
from dfq_plugin.timing import peak_memory_bytes
from dfq_plugin.validation import SQNR_IMAGES, Quality, Verdict

PROOF = (
    "The file was loaded by onnxruntime at full optimisation and the operators of the resulting graph were counted. "
    "Every tensor of integer codes was compared with an independent reference that does not use onnxruntime. "
    "Latency: medians on one thread, float and integer file run in turn in one process. "
    f"Sessions had the option `{EXACT_SUMS}` = 1, which yours need too on x86 without VNNI, lest sums overflow."
)
SHOWN = ("dfq-plugin", "torch", "nncf", "onnx", "onnxruntime", "numpy")  # packages that numbers may depend on


def describe(synthetic: SyntheticSet) -> str:
    """A synthetic set in words."""
    origin = synthetic.provenance
    return f"{len(synthetic)} calibration images ({origin.provider}, seed {origin.seed})"


def pictures(synthetic: SyntheticSet, teacher: Teacher) -> Pictures:
    """A synthetic set as the report shows it."""
    return Pictures(synthetic.images, synthetic.labels, teacher.facts.mean, teacher.facts.std)


def file_metadata(synthetic: SyntheticSet, student: Student) -> dict[str, str]:
    """What an exported file says of its own origin: the set that the student was made with, whatever lies beside it.

    Args:
        synthetic: taken for that set where the student does not say, as in files of earlier versions.
        student: what is exported.
    """
    bits = sorted({f"{entry.kind} {entry.applied}" for entry in student.plan})
    return {**(student.calibrated_on or synthetic.origin()), "bits": ", ".join(bits)}


def build_report(  # noqa: PLR0917 - one argument a stage
    config: Config,
    teacher: Teacher,
    synthetic: SyntheticSet,
    student: Student,
    history: History,
    verdict: Verdict,
    float_size_bytes: int,
    evidence: LabelledImages | None,
    quality: Mapping[str, Quality],
    baselines: Mapping[str, Baseline],
    match: Sequence[LayerMatch],
    timings_s: Mapping[str, float],
) -> Report:
    """Everything that is known about the result, each number with the images it was measured on."""
    latency, origin = verdict.latency, asdict(synthetic.provenance)
    return Report(
        model=f"{config.model.source} ({config.model.weights or 'own weights'})",
        calibration_set=describe(synthetic),
        accuracy=_accuracy(quality),
        agreement=_against_teacher(quality, "agreement"),
        kl_nats=_against_teacher(quality, "kl"),
        logits_sqnr_db=_against_teacher(quality, "sqnr_db"),
        baselines={name: _baseline_row(made, made.quality) for name, made in baselines.items() if made.quality},
        census=cast("Census", asdict(verdict.census)),
        parity=cast("Parity", asdict(verdict.parity)),
        latency_ms={"float": latency.float_ms if latency else None, "integer": latency.integer_ms if latency else None},
        size_bytes={"float": float_size_bytes, "integer": verdict.size_bytes},
        bits=[cast("BitsRow", asdict(entry)) for entry in student.plan],
        layers=_layers(student, verdict),
        measured_on=_measured_on(synthetic, evidence, verdict),
        sqnr_db=verdict.sqnr_db,
        losses={"distillation": history.losses, **history.curves} if history.losses else {},
        synthesis_curves=[cast("SynthesisCurves", curves) for curves in find_curves(origin)],
        batchnorm_match=[cast("MatchRow", asdict(layer)) for layer in match],
        timings_s=dict(timings_s),
        peak_memory_bytes=peak_memory_bytes(),
        provenance={**without_curves(origin), "teacher_facts": asdict(teacher.facts), "machine": machine_facts()},
        config=config.resolved(),
        command=f"dfq run {shlex.quote(str(Path(config.output_dir) / 'config.json'))}",
        evidence=PROOF,
        notes=[*_notes(config, teacher, evidence, baselines), *_overflow(verdict)],
    )


def machine_facts() -> dict[str, Any]:
    """What the run was made with: processor, system, Python, and the packages that numbers may depend on."""
    processor = read_processor()
    return {
        "processor": processor.name,
        "instructions": list(processor.instructions or ()),
        "cores": processor.usable_cores,
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: installed_version(name) for name in SHOWN},
    }


def _layers(student: Student, verdict: Verdict) -> list[LayerRow]:
    bits = {entry.name: entry.applied for entry in student.plan}
    places = {site.name: site.layer for site in student.sites}
    ratios = dict(verdict.sqnr_db)
    return [
        {
            "layer": layer.operator,
            "weight_bits": bits.get(layer.weight_quantizer or ""),
            "input_bits": bits.get(layer.input_quantizer or ""),
            "input_sqnr_db": ratios.get(places.get(layer.input_quantizer or "", "")),
        }
        for layer in student.layers
    ]


def _measured_on(synthetic: SyntheticSet, evidence: LabelledImages | None, verdict: Verdict) -> dict[str, str]:
    on_synthetic = describe(synthetic)
    compared = f"{verdict.parity.images} of {on_synthetic}"
    ratios = f"{min(SQNR_IMAGES, len(synthetic))} of {on_synthetic}"
    measured = {"parity": compared, "sqnr_db": ratios, "latency_ms": "one image of noise"}
    measured["batchnorm_match"] = f"at most {IMAGES} images of each kind"
    if evidence is None:
        return measured
    labelled = "images" if evidence.labels is None else "labelled images"
    images = f"{len(evidence.images)} {labelled} of {evidence.source}" if evidence.is_real else evidence.source
    return measured | {"agreement": images, "accuracy": images}


def _baseline_row(made: Baseline, quality: Quality) -> BaselineRow:
    return {
        "images": made.images,
        "accuracy": quality.accuracy,
        "agreement": quality.agreement,
        "kl_nats": quality.kl,
        "logits_sqnr_db": quality.sqnr_db,
        "seconds": made.seconds,
    }


def _accuracy(quality: Mapping[str, Quality]) -> Accuracy:
    if not quality:
        return no_accuracy()
    return {
        "teacher": quality["teacher"].accuracy,
        "student": quality["student"].accuracy,
        "onnx": quality["onnx"].accuracy,
    }


def _against_teacher(quality: Mapping[str, Quality], field: str) -> AgainstTeacher:
    if not quality:
        return no_comparison()
    return {"student": getattr(quality["student"], field), "onnx": getattr(quality["onnx"], field)}


def _overflow(verdict: Verdict) -> Iterator[str]:
    found = verdict.overflow
    if found is not None and found.differing:
        yield (
            f"Without onnxruntime's session option `{EXACT_SUMS}` = 1, with which all this was measured, "
            f"{found.differing:,} of {found.codes:,} codes of {found.images} images are others, by up to "
            f"{found.max_difference}: this processor has neither VNNI nor AMX, and sums overflow in 16 bits. Set the "
            "option wherever the file runs on such processors, or quantize with quantize.overflow_fix 'enable'."
        )


def _notes(
    config: Config, teacher: Teacher, evidence: LabelledImages | None, baselines: Mapping[str, Baseline]
) -> Sequence[str]:
    notes = [f"{note.pointer}: {note.message}" for note in config.notes]
    if teacher.facts.pixel_range is None:
        notes.append(PIXELS_NOT_KNOWN)
    if evidence is None:
        notes.append("Quality was not measured: there are no images but those of the calibration; set validate.images.")
    elif evidence.labels is None:
        notes.append("The images quality was measured on have no labels, so there is no accuracy, only agreement.")
    notes += [f"Baseline '{name}' was left out: {made.problem}" for name, made in baselines.items() if made.problem]
    return notes
