"""A student on disk: one safetensors file with its numbers and, in its head, what it is; no pickle."""

from __future__ import annotations

import json
from dataclasses import asdict
from inspect import unwrap
from pathlib import Path
from typing import Any

import nncf
import torch
from nncf.torch import get_config, load_from_config
from torch import nn

from dfq_plugin.errors import InputError, UnsupportedModelError
from dfq_plugin.quantization.bits import write_plan
from dfq_plugin.quantization.extension import ensure_extension
from dfq_plugin.quantization.prepare import prepare
from dfq_plugin.student import BitAssignment, ProductLayer, QuantizerSite, Student
from dfq_plugin.tensor_files import read_tensors, write_tensors

TENSORS, PLAN = "student.safetensors", "bit_plan.json"
# As they are inside what NNCF wraps around them, which sends usage data over the network.
describe_network, restore_network = unwrap(get_config), unwrap(load_from_config)
FORMAT = "dfq_plugin.student/1"


def save_student(student: Student, folder: str | Path) -> None:
    """Write a student into ``folder``, as one file, so that numbers and description are never of two students.

    Its bit plan is written beside it, for later runs.
    """
    description = {
        "input_shape": student.input_shape,
        "sites": [asdict(site) for site in student.sites],
        "layers": [asdict(layer) for layer in student.layers],
        "plan": [asdict(entry) for entry in student.plan],
        "calibrated_on": student.calibrated_on,
        "nncf": describe_network(student.network),
    }
    origin = {"format": FORMAT, "description": json.dumps(description)}
    write_tensors(Path(folder) / TENSORS, student.network.state_dict(), origin)
    write_plan(student.plan, Path(folder) / PLAN)


def load_student(folder: str | Path, teacher: nn.Module) -> Student:
    """Read a student back.

    Args:
        folder: where ``save_student`` wrote it.
        teacher: the float network it was made from; only its architecture is used.

    Raises:
        InputError: the files are missing, broken, or belong to another network.
        UnsupportedModelError: the teacher gives something else than one tensor.
    """
    source = Path(folder)
    description, tensors = _read(source)
    ensure_extension()
    try:
        shape = tuple(description["input_shape"])
        network = prepare(teacher, torch.zeros(1, *shape, device=next(teacher.parameters()).device))
        network = restore_network(network, description["nncf"])
        network.load_state_dict(tensors)
        student = Student(
            network.requires_grad_(requires_grad=False),
            shape,
            tuple(_site(site) for site in description["sites"]),
            tuple(ProductLayer(**layer) for layer in description["layers"]),
            tuple(BitAssignment(**entry) for entry in description["plan"]),
        )
        told = description.get("calibrated_on", {})  # files of earlier versions do not say
        student.calibrated_on = {str(name): str(text) for name, text in told.items()}
        for _, quantizer in student.quantizers():
            quantizer.set_levels()  # NNCF reads the bits of asymmetric quantizers back without acting on them
    except UnsupportedModelError:
        raise
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, nncf.InternalError) as error:
        msg = f"{source} holds a student of another network than {type(teacher).__name__}: {error}"
        raise InputError(msg) from error
    return student


def _site(fields: dict[str, Any]) -> QuantizerSite:
    return QuantizerSite(**{**fields, "readers": tuple(fields["readers"]), "others": tuple(fields["others"])})


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    path = folder / TENSORS
    if not path.exists():
        msg = f"{folder} holds no student: {path} is missing; run `dfq quantize` first."
        raise InputError(msg)
    tensors, origin = read_tensors(path, own=True)
    if origin.get("format") != FORMAT:
        msg = f"{path} is not of format {FORMAT}; run `dfq quantize` again."
        raise InputError(msg)
    try:
        description = json.loads(origin["description"])
    except (KeyError, ValueError, RecursionError) as error:
        msg = f"{path} does not say what its student is ({error}); run `dfq quantize` again."
        raise InputError(msg) from error
    return description, tensors
