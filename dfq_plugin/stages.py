"""Single stages for the command line: each reads what the one before it left in the output folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from dfq_plugin import export, finetuning, quantization, validation
from dfq_plugin.config import Config
from dfq_plugin.errors import ConfigError, InputError, ValidationError
from dfq_plugin.files import make_output_folder, output_folder, read_json_object
from dfq_plugin.memory import freed_memory_kept, memory_explained
from dfq_plugin.pipeline import BLOCKS, MODEL, STUDENT, SYNTHETIC, TRAINING, keep_student, reject
from dfq_plugin.processes import joined, launched, processes
from dfq_plugin.report import Report, write_report
from dfq_plugin.set_cache import learning_data, synthesize
from dfq_plugin.student import Student
from dfq_plugin.summary import file_metadata, pictures
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import Teacher, load_teacher
from dfq_plugin.tracking import tracked

Result = dict[str, Any]


class Job:
    """A config with what its output folder already holds, loaded when first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.output: Path = make_output_folder(config.output_dir)

    @cached_property
    def teacher(self) -> Teacher:
        """The float network with its facts."""
        return load_teacher(self.config.model, self.config.input_shape)

    @cached_property
    def synthetic(self) -> SyntheticSet:
        """The set in the output folder, made first when there is none."""
        path = self.output / SYNTHETIC
        if processes().count > 1:
            self.require(SYNTHETIC, "generate")
        if path.exists():
            return self._checked(SyntheticSet.load(path), path)
        made = synthesize(self.config.calibration, self.teacher)
        made.save(path)
        return made

    def _checked(self, found: SyntheticSet, path: Path) -> SyntheticSet:
        shape = tuple(found.images.shape[1:])
        if shape != self.config.input_shape:
            msg = f"The images in {path} are of shape {shape}, but input_shape is {self.config.input_shape}; "
            msg += "run `dfq generate` with the same config first."
            raise InputError(msg)
        return found

    @cached_property
    def student(self) -> Student:
        """The student in the output folder."""
        return quantization.load_student(self.output / STUDENT, self.teacher.network)

    def require(self, name: str, verb: str) -> Path:
        """The path of a file in the output folder.

        Raises:
            InputError: it is not there yet.
        """
        path = self.output / name
        if not path.exists():
            msg = f"{path} does not exist; run `dfq {verb}` with the same config first."
            raise InputError(msg)
        return path


def _generate(job: Job) -> Result:
    synthetic = synthesize(job.config.calibration, job.teacher)
    synthetic.save(job.output / SYNTHETIC)
    provider = synthetic.provenance.provider
    return {"synthetic": str(job.output / SYNTHETIC), "images": len(synthetic), "provider": provider}


def _quantize(job: Job) -> Result:
    config = job.config
    student = quantization.quantize(
        job.teacher.network, job.synthetic, config.quantize, config.target_device, checkpoint=job.output / BLOCKS
    )
    keep_student(student, job.output)
    return {"student": str(job.output / STUDENT), "quantizers": len(student.sites)}


def _finetune(job: Job) -> Result:
    data = learning_data(job.config, job.teacher, job.synthetic)
    settings, checkpoint = job.config.finetune, job.output / TRAINING
    with tracked(job.config) as track:
        history = finetuning.finetune(job.teacher.network, job.student, data, settings, checkpoint, watch=track.watch)
    quantization.save_student(job.student, job.output / STUDENT)
    return {"student": str(job.output / STUDENT), "losses": list(history.losses)}


def _export(job: Job) -> Result:
    metadata = file_metadata(job.synthetic, job.student)
    exported = export.export_onnx(job.student, job.output / MODEL, job.config.export, metadata)
    return {"model": str(exported.path), "size_bytes": exported.size_bytes}


def _validate(job: Job) -> Result:
    path = job.require(MODEL, "export")
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "float.onnx"
        export.export_float(job.teacher.network, job.config.input_shape, plain, job.config.export)
        try:
            verdict = validation.validate(path, job.student, job.synthetic.images, job.config.validation, plain)
        except ValidationError as error:
            raise reject(path, job.output, error) from error
    ratios = [[layer, "inf" if ratio == math.inf else ratio] for layer, ratio in verdict.sqnr_db]  # as in report.json
    return {"model": str(path), **asdict(verdict), "sqnr_db": ratios}


def _report(job: Job) -> Result:
    path = job.require("report.json", "run")
    report = Report.from_json(read_json_object(path))
    written = write_report(report, job.output, pictures(job.synthetic, job.teacher))
    return {"report": str(written.html or written.markdown)}


def operations_of_scopes(config: Config) -> dict[str, list[str]]:
    """The operations of the network that each scope in the config stands for; none for a scope that matches nothing."""
    teacher = load_teacher(config.model, config.input_shape)
    return quantization.operations_of_scopes(teacher.network, config.input_shape, config.quantize)


STAGES: dict[str, Callable[[Job], Result]] = {
    "generate": _generate,
    "quantize": _quantize,
    "finetune": _finetune,
    "export": _export,
    "validate": _validate,
    "report": _report,
}


SHARED = ("generate", "finetune")  # what several processes of a job can do together


def _follow(verb: str, job: Job) -> Result:
    """The share of a process beside the main one, which alone writes files and has results."""
    if verb == "generate":
        synthesize(job.config.calibration, job.teacher)
    else:
        data = learning_data(job.config, job.teacher, job.synthetic)
        finetuning.finetune(job.teacher.network, job.student, data, job.config.finetune, job.output / TRAINING)
    return {}


def run_stage(verb: str, config: Config) -> Result:
    """Run one stage on what lies in the output folder, which no other job may use meanwhile.

    Returns:
        What is told of it; empty in the processes beside the main one.

    Raises:
        DFQError: one message that says what, which value, where, and what to do.
    """
    if launched() > 1 and verb not in SHARED:
        msg = f"`dfq {verb}` is the work of one process, and {launched()} were started; start it without the launcher."
        raise ConfigError(msg)
    stage = {"generate": "synthesize"}.get(verb, verb)
    with joined() as crew, freed_memory_kept(), memory_explained(stage):
        if not crew.is_main:
            with crew.sharing():
                return _follow(verb, Job(config))
        with output_folder(config.output_dir), crew.sharing():
            return STAGES[verb](Job(config))
