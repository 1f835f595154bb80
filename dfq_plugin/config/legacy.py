"""What an NNCF 2.x config file says outside the plug-in's own sections: inputs, device, algorithms, old script keys."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dfq_plugin.config.legacy_quantization import map_quantization
from dfq_plugin.config.legacy_schema import InputInfo, KnowledgeDistillation, Quantization
from dfq_plugin.config.problems import describe_errors, places_of_keys
from dfq_plugin.config.schema import Config
from dfq_plugin.config.statements import Statements, to_pointer

Model = TypeVar("Model", bound=BaseModel)

SCRIPT_KEYS = frozenset(
    {
        "batch_size",
        "batch_size_init",
        "batch_size_val",
        "checkpoint_save_dir",
        "criterion",
        "criterion_params",
        "dataset",
        "dataset_dir",
        "epochs",
        "learning_rate",
        "loss_params",
        "model_params",
        "multiprocessing_distributed",
        "num_classes",
        "optimizer",
        "preprocessing",
        "pretrained",
        "print_freq",
        "save_freq",
        "ssd_params",
        "test_every_n_epochs",
        "workers",
    }
)
NO_PRUNING_HERE = "prune first with nncf.prune, then give this plug-in the pruned network"
OTHER_ALGORITHMS = {
    "experimental_quantization": "write 'quantization'",
    "binarization": "there are no 1-bit integer kernels to run it; the lowest is 2 bits, quantize.weight_bits",
    "magnitude_sparsity": NO_PRUNING_HERE,
    "rb_sparsity": NO_PRUNING_HERE,
    "const_sparsity": NO_PRUNING_HERE,
    "movement_sparsity": NO_PRUNING_HERE,
    "filter_pruning": "NNCF 3.x removes no filters; slim the network first, then give it to this plug-in",
}
ALGORITHMS: dict[str, type[BaseModel]] = {"quantization": Quantization, "knowledge_distillation": KnowledgeDistillation}


@functools.cache
def homes() -> dict[str, list[str]]:
    """Where each key of a config file belongs, to help when it stands elsewhere."""
    left_out = ("mode", "bits", "per_channel", "scope_overrides")  # old spellings, and repetitions of the groups
    return places_of_keys(
        {"": Config, "/compression": Quantization}, without=[f"/compression/{key}" for key in left_out]
    )


def own_part(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The file without its NNCF 2.x root keys: the plug-in's own sections, and unknown keys."""
    left_out = {"$schema", *SCRIPT_KEYS, *READERS}
    own = {key: value for key, value in raw.items() if key not in left_out}
    if isinstance(own.get("model"), str):
        del own["model"]
    return own


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
    script_keys = sorted(SCRIPT_KEYS & raw.keys())
    if script_keys:
        message = (
            f"{', '.join(script_keys)} belonged to the NNCF 2.x sample scripts, not to NNCF, and say nothing here; "
            "see finetune.epochs, finetune.lr, finetune.batch_size and validate.images"
        )
        to.note("ignored", "/", message)


def note_defaults(raw: Mapping[str, Any], to: Statements) -> None:
    """Tell where a default differs from the one NNCF 2.x would have used for the same file.

    Args:
        raw: the file's content.
        to: knows everything the file and the overrides say, and takes the notes.
    """
    pointers = {
        entry.get("algorithm"): at for entry, at in _algorithms(raw.get("compression", [])) if isinstance(entry, dict)
    }
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
    if len(info.sample_size) != 4:
        to.refuse(f"{at}/sample_size", f"got {info.sample_size}, expected [batch, channels, height, width]")
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


def _algorithms(raw: Any) -> list[tuple[Any, str]]:  # noqa: ANN401
    if isinstance(raw, list):
        return [(entry, f"/compression/{index}") for index, entry in enumerate(raw)]
    return [(raw, "/compression")]


def _map_algorithms(raw: Any, _: str, to: Statements) -> None:  # noqa: ANN401
    seen: dict[str, str] = {}
    for entry, pointer in _algorithms(raw):
        name = entry.get("algorithm") if isinstance(entry, Mapping) else None
        if name in seen:
            to.refuse(f"{pointer}/algorithm", f"{name!r} stands at {seen[name]} already; merge the two")
        elif name not in ALGORITHMS:
            advice = OTHER_ALGORITHMS.get(str(name), "expected 'quantization' or 'knowledge_distillation'")
            problem = f"{name!r} is not done here; {advice}" if name is not None else f"missing; {advice}"
            to.refuse(f"{pointer}/algorithm", problem)
        else:
            seen[str(name)] = pointer
            checked = _check(ALGORITHMS[str(name)], entry, pointer, to)
            if isinstance(checked, Quantization):
                map_quantization(checked, pointer, to)
            elif isinstance(checked, KnowledgeDistillation):
                _map_distillation(checked, pointer, to)


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
    message = (
        "it stops training by accuracy on labelled data, which a data-free job does not have; delete it, set "
        "finetune.epochs, and give validate.images if there are labelled images to measure on"
    )
    to.refuse(at, message)


def _map_model_name(name: str, pretrained: Any, to: Statements) -> None:  # noqa: ANN401
    if ":" in name:
        to.map(("model", "source"), name, "/model")
        return
    to.say(("model", "source"), f"torchvision:{name}", "/model")
    message = f"taken as {{'source': 'torchvision:{name}'}}"
    if pretrained is True:
        to.imply(("model", "weights"), "IMAGENET1K_V1", "/pretrained")
        message += " with the weights IMAGENET1K_V1, what pretrained=true meant"
    to.note("approximated", "/model", f"{message}; write the section model out")


READERS: dict[str, Callable[[Any, str, Statements], None]] = {
    "input_info": _map_input,
    "target_device": _map_device,
    "compression": _map_algorithms,
    "compression_lr_multiplier": _map_lr_multiplier,
    "log_dir": _map_log_dir,
    "disable_shape_matching": _note_shape_matching,
    "accuracy_aware_training": _refuse_accuracy_aware,
}


def _check(model: type[Model], raw: Any, at: str, to: Statements) -> Model | None:  # noqa: ANN401
    try:
        return model.model_validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        schema = model.model_json_schema()
        to.problems += describe_errors(error, schema, lambda path: at + (to_pointer(path) if path else ""), homes())
        return None
