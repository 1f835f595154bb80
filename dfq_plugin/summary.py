"""Put what the stages found into a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast

from dfq_plugin.config import Config
from dfq_plugin.finetuning import History
from dfq_plugin.images import LabelledImages
from dfq_plugin.report import BitsRow, Census, Parity, Report
from dfq_plugin.report.sections import Accuracy, AgainstTeacher, no_accuracy, no_comparison
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import Teacher
from dfq_plugin.timing import peak_memory_bytes
from dfq_plugin.validation import Quality, Verdict

PROOF = (
    "The file was loaded by onnxruntime at full optimisation and the operators of the resulting graph were counted. "
    "Every tensor of integer codes was compared with an independent reference that does not use onnxruntime. "
    "Latency: medians on one thread, float and integer file run in turn in one process."
)


def describe(synthetic: SyntheticSet) -> str:
    """A synthetic set in words."""
    origin = synthetic.provenance
    return f"{len(synthetic)} calibration images ({origin.provider}, seed {origin.seed})"


def file_metadata(synthetic: SyntheticSet, student: Student) -> dict[str, str]:
    """What an exported file says of its own origin."""
    origin = synthetic.provenance
    bits = sorted({f"{entry.kind} {entry.applied}" for entry in student.plan})
    versions = ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items()))
    return {
        "provider": origin.provider,
        "seed": str(origin.seed),
        "num_samples": str(len(synthetic)),
        "teacher": origin.teacher,
        "bits": ", ".join(bits),
        "versions": versions,
    }


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
    timings_s: Mapping[str, float],
) -> Report:
    """Everything that is known about the result, each number with the images it was measured on."""
    on_synthetic = describe(synthetic)
    measured = {"parity": on_synthetic, "sqnr_db": on_synthetic, "latency_ms": "one image of noise"}
    if evidence is not None:
        measured |= {"agreement": evidence.source, "accuracy": evidence.source}
    latency = verdict.latency
    return Report(
        model=f"{config.model.source} ({config.model.weights or 'own weights'})",
        calibration_set=on_synthetic,
        accuracy=_accuracy(quality),
        agreement=_against_teacher(quality, "agreement"),
        kl_nats=_against_teacher(quality, "kl"),
        logits_sqnr_db=_against_teacher(quality, "sqnr_db"),
        census=cast("Census", asdict(verdict.census)),
        parity=cast("Parity", asdict(verdict.parity)),
        latency_ms={"float": latency.float_ms if latency else None, "integer": latency.integer_ms if latency else None},
        size_bytes={"float": float_size_bytes, "integer": verdict.size_bytes},
        bits=[cast("BitsRow", asdict(entry)) for entry in student.plan],
        measured_on=measured,
        sqnr_db=verdict.sqnr_db,
        losses={"distillation": history.losses, **history.curves} if history.losses else {},
        timings_s=dict(timings_s),
        peak_memory_bytes=peak_memory_bytes(),
        provenance={**asdict(synthetic.provenance), "teacher_facts": asdict(teacher.facts)},
        config=config.resolved(),
        evidence=PROOF,
        notes=_notes(config, evidence),
    )


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


def _notes(config: Config, evidence: LabelledImages | None) -> Sequence[str]:
    notes = [f"{note.pointer}: {note.message}" for note in config.notes]
    if evidence is None:
        notes.append("Quality was not measured: there are no images but those of the calibration; set validate.images.")
    elif evidence.labels is None:
        notes.append("The images quality was measured on have no labels, so there is no accuracy, only agreement.")
    return notes
