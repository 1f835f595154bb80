"""The map: one function, one line a stage. Read this file first."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dfq_plugin import export, finetuning, quantization, validation
from dfq_plugin.baselines import baseline_sets, measure_baselines
from dfq_plugin.batchnorm_match import match_batchnorm
from dfq_plugin.config import Config
from dfq_plugin.errors import ConfigError, ValidationError
from dfq_plugin.evidence import choose_evidence
from dfq_plugin.files import output_folder, read_json_object, whole_file
from dfq_plugin.images import LabelledImages
from dfq_plugin.processes import Processes, joined
from dfq_plugin.report import Report, write_report
from dfq_plugin.set_cache import learning_data, synthesize
from dfq_plugin.space import require_space
from dfq_plugin.student import Student
from dfq_plugin.summary import build_report, file_metadata, pictures
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import Teacher, load_teacher
from dfq_plugin.timing import Stopwatch
from dfq_plugin.tracking import Tracker, Trackers, tracked

SYNTHETIC, STUDENT, MODEL, REJECTED = "synthetic.safetensors", "student", "model.onnx", "model.rejected.onnx"
# Of work under way, so that a killed job goes on from its last epoch, or from the last block that was reconstructed.
TRAINING, BLOCKS = ".training.safetensors", ".blocks.safetensors"


def run(config: Config, trackers: Sequence[Tracker] = ()) -> Report:
    """Quantize a network without its data, from settings to verdict.

    Args:
        config: the whole job.
        trackers: your own, beside those that the config names.

    Returns:
        The report; it and everything else lies in ``config.output_dir``.

    Raises:
        DFQError: one message that says what, which value, where, and what to do.
    """
    if config.quantize.placement != "deployable":
        msg = f"quantize.placement '{config.quantize.placement}' re-runs the papers' tables and gives no integer file, "
        msg += "which is what this ends with; take 'deployable', or `dfq quantize` and `dfq finetune` by themselves."
        raise ConfigError(msg)
    with joined() as crew:
        if not crew.is_main:
            return _follow(config, Path(config.output_dir), crew)
        with output_folder(config.output_dir) as output, tracked(config, trackers) as track:
            report = _run(config, output, Stopwatch(), track, crew)
            crew.meet()
    return report


def _run(config: Config, output: Path, clock: Stopwatch, track: Trackers, crew: Processes) -> Report:
    with whole_file(output / "config.json") as path:
        path.write_text(json.dumps(config.resolved(), indent=2) + "\n")
    with clock.stage("teacher"):
        teacher = load_teacher(config.model, config.input_shape)
        require_space(output, config, teacher)
    with clock.stage("synthesize"), crew.sharing():
        synthetic, others, evidence = make_images(config, teacher, output / SYNTHETIC)
    with clock.stage("quantize"):
        student = quantization.quantize(
            teacher.network, synthetic, config.quantize, config.target_device, checkpoint=output / BLOCKS
        )
    with clock.stage("finetune"), crew.sharing():
        hand_over(student, config, output, crew)
        data = learning_data(config, teacher, synthetic)
        checkpoint, watch = output / TRAINING, track.watch
        history = finetuning.finetune(teacher.network, student, data, config.finetune, checkpoint, watch=watch)
        keep_student(student, output)
    with proven(output) as candidate, tempfile.TemporaryDirectory() as scratch:
        with clock.stage("export"):
            export.export_onnx(student, candidate, config.export, file_metadata(synthetic, student))
            float_path = Path(scratch) / "float.onnx"
            plain = export.export_float(teacher.network, config.input_shape, float_path, config.export)
        with clock.stage("validate"):
            verdict = validation.validate(candidate, student, synthetic.images, config.validation, plain.path)
            quality = validation.assess(candidate, student, teacher.network, evidence) if evidence else {}
    with clock.stage("validate"):
        baselines = measure_baselines(config, teacher, others, evidence)
        match = match_batchnorm(teacher, synthetic, evidence)
    with clock.stage("report"):
        found = verdict, plain.size_bytes, evidence, quality, baselines, match, clock.seconds
        report = build_report(config, teacher, synthetic, student, history, *found)
        write_report(report, output, pictures(synthetic, teacher))
        track.finish(report, output)
    return report


def make_images(
    config: Config, teacher: Teacher, keep: Path | None = None
) -> tuple[SyntheticSet, dict[str, SyntheticSet], LabelledImages | None]:
    """The synthetic set, kept as soon as it is there, those of the baselines, and what quality is measured on."""
    synthetic = synthesize(config.calibration, teacher)
    if keep is not None:
        synthetic.save(keep)
    others = baseline_sets(config, teacher)
    evidence = choose_evidence(config, teacher, synthetic.images, *(other.images for other in others.values()))
    return synthetic, others, evidence


def _follow(config: Config, output: Path, crew: Processes) -> Report:
    """What the processes beside the main one do: their share of the images, and of every batch of fine-tuning."""
    teacher = load_teacher(config.model, config.input_shape)
    with crew.sharing():
        synthetic = make_images(config, teacher)[0]
        if config.finetune.epochs:
            crew.meet()
            student = quantization.load_student(output / STUDENT, teacher.network)
            data = learning_data(config, teacher, synthetic)
            finetuning.finetune(teacher.network, student, data, config.finetune, output / TRAINING)
    crew.meet()
    return Report.from_json(read_json_object(output / "report.json"))


def hand_over(student: Student, config: Config, output: Path, crew: Processes) -> None:
    """Give the other processes of the job the student that they will train along."""
    if crew.count > 1 and config.finetune.epochs:
        quantization.save_student(student, output / STUDENT)
        crew.meet()


def keep_student(student: Student, output: Path) -> None:
    """Write the student to the output folder, after which what its blocks have learned need not be kept any more."""
    quantization.save_student(student, output / STUDENT)
    (output / BLOCKS).unlink(missing_ok=True)


@contextmanager
def proven(output: Path) -> Iterator[Path]:
    """Give a path to export to; the file becomes ``model.onnx`` only when the block ends well.

    A file that fails validation is kept under a name that says so, and no ``model.onnx`` is left beside it.
    """
    candidate = output / ".model.candidate.onnx"
    export.remove_model(candidate)  # of a run that was killed
    try:
        yield candidate
    except ValidationError as error:
        problem = reject(candidate, output, error) if candidate.exists() else error
        export.remove_model(output / MODEL)
        raise problem from error
    else:
        export.move_model(candidate, output / MODEL)
        export.remove_model(output / REJECTED)
    finally:
        export.remove_model(candidate)


def reject(model: Path, output: Path, error: ValidationError) -> ValidationError:
    """Give a file that failed validation a name that says so; returns the error, about the file under its new name."""
    export.move_model(model, output / REJECTED)
    return ValidationError(str(error).replace(str(model), str(output / REJECTED)))
