"""What an NNCF 2.x config file says outside the plug-in's own sections: inputs, device, algorithms, old script keys."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dfq_plugin.config.legacy_quantization import map_quantization
from dfq_plugin.config.legacy_removed import (
    FORMER_KEYS,
    NO_ACCURACY,
    NO_SEARCH,
    OTHER_ALGORITHMS,
    SAMPLE_NETWORKS,
    SCRIPT_KEYS,
)
from dfq_plugin.config.legacy_schema import InputInfo, KnowledgeDistillation, Quantization
from dfq_plugin.config.problems import describe_errors, places_of_keys, shorten
from dfq_plugin.config.schema import Config
from dfq_plugin.config.statements import Statements, to_pointer

Model = TypeVar("Model", bound=BaseModel)

ALGORITHMS: dict[str, type[BaseModel]] = {"quantization": Quantization, "knowledge_distillation": KnowledgeDistillation}
DONE_BY = {"quantization": "quantize", "knowledge_distillation": "finetune"}


@functools.cache
def homes() -> dict[str, list[str]]:
    """Where each key of a config file belongs, to help when it stands elsewhere."""
    repeated = "/compression/scope_overrides"
    without = [repeated, *(f"/compression/{key}" for key in ("mode", "bits", "per_channel"))]  # old spellings
    places = places_of_keys({"": Config, "/compression": Quantization, "/input_info": InputInfo}, without=without)
    for key, found in places_of_keys({"/compression": KnowledgeDistillation}).items():
        places[key] = list(dict.fromkeys([*places.get(key, []), *found]))
    return {**places, "scope_overrides": [repeated]}


def own_part(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The file without its NNCF 2.x root keys: the plug-in's own sections, and unknown keys."""
    left_out = {"$schema", *SCRIPT_KEYS, *READERS}
    own = {key: value for key, value in raw.items() if key not in left_out}
    return {key: value for key, value in own.items() if not (key in TEXTS and isinstance(value, str))}


def translate(raw: Mapping[str, Any], to: Statements) -> None:
    """Translate every NNCF 2.x root key.

    Args:
        raw: the file's content.
        to: takes the settings, notes and problems; it has those of the plug-in's own sections already.
    """
    for key, read in READERS.items():
        if key in raw:
            read(raw[key], f"/{key}", to)
    if isinstance(raw.get("model"), str):
        _map_model_name(raw["model"], raw.get("pretrained"), to)
    if isinstance(raw.get("weights"), str):
        to.say(("model", "weights"), raw["weights"], "/weights")
        to.note("approximated", "/weights", "taken as model.weights, a file that holds a state_dict")
    script_keys = sorted(SCRIPT_KEYS & raw.keys())
    if script_keys:
        message = (
            f"{', '.join(script_keys)} belonged to the NNCF 2.x sample scripts, not to NNCF, and say nothing here; "
            "see finetune.epochs, finetune.lr, finetune.batch_size, model.mean, model.std and validate.images"
        )
        to.note("ignored", "/", message)


def note_defaults(raw: Mapping[str, Any], to: Statements) -> None:
    """Tell where a default differs from the one NNCF 2.x would have used for the same file.

    Args:
        raw: the file's content.
        to: knows everything the file and the overrides say, and takes the notes.
    """
    pointers = {name: at for entry, at in _algorithms(raw.get("compression", [])) if (name := _name_of(entry))}
    if "knowledge_distillation" in pointers and not to.value("finetune", "epochs"):
        to.note("default", pointers["knowledge_distillation"], "fine-tuning is off until finetune.epochs is above 0")
    if "quantization" in pointers:
        _note_quantization_defaults(pointers["quantization"], to)


def _note_quantization_defaults(at: str, to: Statements) -> None:
    low_bits = [name for name in ("weight_bits", "activation_bits") if (to.value("quantize", name) or 8) != 8]
    if low_bits and not to.says("quantize", "first_last_bits"):
        message = (
            "the first and the last layer keep 8 bits; NNCF 2.x lowered them too: set quantize.first_last_bits to null"
        )
        to.note("default", at, message)
    if not to.says("quantize", "overflow_fix"):
        to.note("default", at, "overflow_fix is 'disable'; NNCF 2.x had 'enable', for processors without VNNI")
    if not to.says("quantize", "activation_range"):
        to.note("default", at, "activation ranges are chosen by 'auto'; NNCF 2.x had 'mixed_min_max'")
    if not any("batchnorm_adaptation" in note.pointer for note in to.notes):
        to.note("default", at, "BatchNorm statistics are never re-estimated; NNCF 2.x did so on 2000 samples")


def _map_input(raw: Any, at: str, to: Statements) -> None:  # noqa: ANN401 - any JSON value
    if isinstance(raw, list):
        if len(raw) != 1:
            to.refuse(at, f"{len(raw)} inputs are listed, but only networks with one image input are supported")
            return
        raw, at = raw[0], f"{at}/0"
    info = _check(InputInfo, raw, at, to)
    if info is None:
        return
    if info.type not in {None, "float"}:
        to.refuse(f"{at}/type", f"{info.type!r} is no image; only 'float' inputs can be synthesized")
    elif info.type is not None:
        to.note("mapped", f"{at}/type", "images are float")
    if len(info.sample_size) != 4:
        to.refuse(f"{at}/sample_size", f"got {info.sample_size}, expected [batch, channels, height, width]")
        return
    batch, *image = info.sample_size
    if image[2] in {1, 3} and min(image[:2]) > 4:
        message = (
            f"{info.sample_size} has its channels last, as NNCF's samples for TensorFlow had them; networks in PyTorch "
            f"take [{batch}, {image[2]}, {image[0]}, {image[1]}]"
        )
        to.refuse(f"{at}/sample_size", message)
        return
    to.map(("input_shape",), info.sample_size[1:], f"{at}/sample_size")
    if info.filler is not None:
        to.note("ignored", f"{at}/filler", "the network is traced with an image of its own")
    if info.keyword is not None:
        to.note("ignored", f"{at}/keyword", "the image is passed as the first positional argument of forward")


def _map_device(raw: Any, at: str, to: Statements) -> None:  # noqa: ANN401
    replacements = {
        "VPU": ("NPU", "VPU is called NPU in NNCF 3.x"),
        "TRIAL": ("ANY", "the 8-bit layout of ANY is used, and the bits are lowered afterwards"),
        "NONE": ("ANY", "the 8-bit layout of ANY is used, and the bits are lowered afterwards"),
    }
    if raw == "CPU_SPR":
        to.refuse(at, "'CPU_SPR' is not offered by NNCF 3.x for PyTorch; write 'CPU'")
        return
    device, message = replacements.get(raw, (raw, "")) if isinstance(raw, str) else (raw, "")
    to.say(("target_device",), device, at)
    if message:
        to.note("approximated", at, message)


def _map_former_device(raw: Any, at: str, to: Statements) -> None:  # noqa: ANN401
    to.note("approximated", at, "was called target_device already in NNCF 2.x, and is taken as that")
    _map_device(raw.upper() if isinstance(raw, str) else raw, at, to)


def _algorithms(raw: Any) -> list[tuple[Any, str]]:  # noqa: ANN401
    if isinstance(raw, list):
        return [(entry, f"/compression/{index}") for index, entry in enumerate(raw)]
    return [(raw, "/compression")]


def _name_of(entry: Any) -> str:  # noqa: ANN401
    name = entry.get("algorithm") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else ""


def _map_algorithms(raw: Any, _: str, to: Statements) -> None:  # noqa: ANN401
    seen: dict[str, str] = {}
    for entry, pointer in _algorithms(raw):
        name = _name_of(entry)
        if name not in ALGORITHMS:
            advice = OTHER_ALGORITHMS.get(name, "expected 'quantization' or 'knowledge_distillation'")
            said = isinstance(entry, Mapping) and entry.get("algorithm") is not None
            problem = f"{shorten(entry['algorithm'])} is not done here" if said else "missing"
            to.refuse(f"{pointer}/algorithm", f"{problem}; {advice}")
        elif name in seen:
            to.refuse(f"{pointer}/algorithm", f"{name!r} stands at {seen[name]} already; merge the two")
        else:
            seen[name] = pointer
            _map_algorithm(name, entry, pointer, to)


def _map_algorithm(name: str, entry: Mapping[str, Any], at: str, to: Statements) -> None:
    former = {key: value for key, value in entry.items() if key in FORMER_KEYS}
    for key in former:
        to.refuse(f"{at}/{key}", FORMER_KEYS[key])
    to.note("mapped", f"{at}/algorithm", f"done by the section {DONE_BY[name]}")
    checked = _check(ALGORITHMS[name], {key: value for key, value in entry.items() if key not in former}, at, to)
    if isinstance(checked, Quantization):
        map_quantization(checked, at, to)
    elif isinstance(checked, KnowledgeDistillation):
        _map_distillation(checked, at, to)


def _map_distillation(algorithm: KnowledgeDistillation, at: str, to: Statements) -> None:
    to.map(("finetune", "loss"), "kl" if algorithm.type == "softmax" else "mse", f"{at}/type")
    if algorithm.scale is not None:
        to.map(("finetune", "loss_scale"), algorithm.scale, f"{at}/scale")
    if algorithm.type == "mse":
        if algorithm.temperature is not None:
            to.note("ignored", f"{at}/temperature", "type 'mse' compares the logits themselves")
    elif algorithm.temperature is not None:
        to.map(("finetune", "temperature"), algorithm.temperature, f"{at}/temperature")
    else:
        to.imply(("finetune", "temperature"), 1.0, f"{at} (default of NNCF 2.x)")


def _map_lr_multiplier(raw: Any, at: str, to: Statements) -> None:  # noqa: ANN401
    to.map(("finetune", "range_lr_multiplier"), raw, at)


def _map_log_dir(raw: Any, at: str, to: Statements) -> None:  # noqa: ANN401
    to.map(("output_dir",), raw, at)


def _note_shape_matching(_: Any, at: str, to: Statements) -> None:  # noqa: ANN401
    to.note("ignored", at, "NNCF had no more use for it already in 2.x")


def _refuse_accuracy_aware(_: Any, at: str, to: Statements) -> None:  # noqa: ANN401
    to.refuse(at, NO_ACCURACY)


def _refuse_search(_: Any, at: str, to: Statements) -> None:  # noqa: ANN401
    to.refuse(at, NO_SEARCH)


def _map_model_name(name: str, pretrained: Any, to: Statements) -> None:  # noqa: ANN401
    if ":" in name:
        to.map(("model", "source"), name, "/model")
        return
    to.say(("model", "source"), f"torchvision:{name}", "/model")
    message = f"taken as {{'source': 'torchvision:{name}'}}"
    if pretrained is True:
        to.imply(("model", "weights"), "IMAGENET1K_V1", "/pretrained")
        message += " with the weights IMAGENET1K_V1, what pretrained=true meant"
    if name in SAMPLE_NETWORKS:
        message += f", but {name!r} was a network of NNCF's samples: name yours as 'python:package.module:factory'"
    to.note("approximated", "/model", f"{message}; write the section model out")


READERS: dict[str, Callable[[Any, str, Statements], None]] = {
    "input_info": _map_input,
    "target_device": _map_device,
    "compression": _map_algorithms,
    "compression_lr_multiplier": _map_lr_multiplier,
    "log_dir": _map_log_dir,
    "disable_shape_matching": _note_shape_matching,
    "accuracy_aware_training": _refuse_accuracy_aware,
    "bootstrapNAS": _refuse_search,
    "hw_config_type": _map_former_device,
}
TEXTS = ("model", "weights")  # root keys that are sections or unknown, but meant something as texts


@functools.cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


def _check(model: type[Model], raw: Any, at: str, to: Statements) -> Model | None:  # noqa: ANN401
    try:
        return model.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        to.problems += describe_errors(
            error, _schema(model), lambda path: at + (to_pointer(path) if path else ""), homes()
        )
        return None
