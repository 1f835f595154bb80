"""From a config file to a checked ``Config``, and back to the words of the user."""

from __future__ import annotations

import copy
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dfq_plugin.config.base import Settings
from dfq_plugin.config.legacy import READERS, homes, note_defaults, own_part, translate
from dfq_plugin.config.legacy_removed import SCRIPT_KEYS
from dfq_plugin.config.legacy_schema import InputInfo, KnowledgeDistillation, Quantization
from dfq_plugin.config.problems import describe_errors
from dfq_plugin.config.reading import apply_override, parse_override, read_document
from dfq_plugin.config.recipes import apply_recipe
from dfq_plugin.config.schema import Config, Note
from dfq_plugin.config.statements import Statements, flatten
from dfq_plugin.errors import ConfigError

Section = TypeVar("Section", bound=Settings)

logger = logging.getLogger("nncf.dfq_plugin.config")

OWN_CODE = "python:"  # sources of networks that are code of the user's own
STAND_INS = {"model": {"source": "timm:stand-in"}, "input_shape": [3, 1, 1]}


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Read and check a config file: NNCF 2.x fields, the plug-in's own sections, or both.

    Args:
        source: path of a file in JSON with ``//`` comments, or its content as a mapping.
        overrides: texts ``section.setting=value`` that win over the file.

    Raises:
        ConfigError: every problem found, each with its place, its value and what is allowed.
    """
    statements, label = _gather(source, overrides)
    config = _check(statements, statements.document(), label)
    origins = {".".join(path): pointer for path, pointer in statements.origins().items()}
    _note_surplus_samples(config, statements)
    _log(statements.notes, label, len(origins))
    return config.with_history(origins, tuple(statements.notes))


def read_section(section: type[Section], values: Mapping[str, Any]) -> Section:
    """Check the settings of one section that were given as keyword arguments.

    Args:
        section: the class of the section, as in ``QuantizeSettings``.
        values: its fields by name; those left out take their defaults.

    Raises:
        ConfigError: every problem found, each with the setting's name, its value and what is allowed.
    """
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        lines = describe_errors(error, section.model_json_schema(), lambda path: ".".join(map(str, path)), {})
        msg = "\n  ".join(lines)
        raise ConfigError(msg) from error


def convert(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Write a config file anew in the plug-in's own sections; only what it says, not the defaults.

    A file of NNCF 2.x does not say where the network comes from: its result lacks the section ``model``.

    Raises:
        ConfigError: as ``load_config``, except that ``model`` and ``input_shape`` may be missing.
    """
    statements, label = _gather(source, ())
    document = statements.document()
    config = _check(statements, STAND_INS | document, label)
    _log(statements.notes, label, len(statements.origins()))
    return _pick(document, config.resolved())


def explanation(config: Config, scopes: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Every setting with its value and where it was said, and every note, as plain data.

    Args:
        config: what to explain.
        scopes: the operations of the network that each scope stands for, if that is known.
    """
    settings = [
        {"setting": name, "value": value, "from": config.origins.get(name, "default")}
        for path, value, _ in flatten(config.resolved(), ())
        for name in [".".join(path)]
    ]
    found = {} if scopes is None else {"scopes": {scope: list(names) for scope, names in scopes.items()}}
    return {"settings": settings, "notes": [note.model_dump() for note in config.notes], **found}


def explain(config: Config, scopes: Mapping[str, Sequence[str]] | None = None) -> str:
    """The same as ``explanation``, as aligned text."""
    told = explanation(config, scopes)
    settings = [(entry["setting"], json.dumps(entry["value"]), entry["from"]) for entry in told["settings"]]
    lines = _aligned([("setting", "value", "from"), *settings])
    if config.notes:
        lines += ["", *_aligned([("note", "about", "what"), *((n.level, n.pointer, n.message) for n in config.notes)])]
    if scopes is not None:
        rows = [(scope, str(len(names)), ", ".join(names) or "nothing") for scope, names in scopes.items()]
        lines += ["", *_aligned([("scope", "count", "operations of the network"), *rows])]
    if config.model.source.startswith(OWN_CODE):
        module = config.model.source.removeprefix(OWN_CODE).partition(":")[0]
        lines += ["", f"This config runs code: a job imports Python's module '{module}'. Run it only if you trust the"]
        lines += ["config and that module, which is looked for in the working directory as well."]
    return "\n".join(lines)


def json_schema() -> dict[str, Any]:
    """The JSON schema of config files, for editors that check while typing."""
    return copy.deepcopy(_schema())


@functools.cache
def _schema() -> dict[str, Any]:
    schema = Config.model_json_schema(by_alias=True)
    definitions = schema["$defs"]
    for model in (InputInfo, Quantization, KnowledgeDistillation):
        part = model.model_json_schema(ref_template="#/$defs/nncf2_{model}")
        inner = part.pop("$defs", {})
        definitions |= {f"nncf2_{name}": definition for name, definition in inner.items()}
        definitions[f"nncf2_{model.__name__}"] = part
    algorithm = {"oneOf": [{"$ref": f"#/$defs/nncf2_{name}"} for name in ("Quantization", "KnowledgeDistillation")]}
    one_input = {"$ref": "#/$defs/nncf2_InputInfo"}
    schema["properties"] |= {
        "$schema": {"type": "string", "description": "Where this schema lies, for editors."},
        "input_info": {"anyOf": [one_input, {"type": "array", "items": one_input, "minItems": 1, "maxItems": 1}]},
        "compression": {"anyOf": [algorithm, {"type": "array", "items": algorithm}]},
        "compression_lr_multiplier": {"type": "number", "minimum": 0},
        "log_dir": {"type": "string"},
        "disable_shape_matching": {"deprecated": True},
        "hw_config_type": {"type": "string", "deprecated": True, "description": "Former name of target_device."},
        "weights": {"type": "string", "deprecated": True, "description": "Of the NNCF 2.x samples; model.weights."},
        **{key: {"deprecated": True, "description": "Of the NNCF 2.x sample scripts; ignored."} for key in SCRIPT_KEYS},
    }
    model = schema["properties"]["model"]
    schema["properties"]["model"] = {"anyOf": [model, {"type": "string", "deprecated": True}]}
    schema["properties"]["target_device"]["enum"] += ["VPU", "TRIAL", "NONE"]
    schema["required"] = ["model"]
    schema["anyOf"] = [{"required": ["input_shape"]}, {"required": ["input_info"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "dfq_plugin config"}


def _gather(source: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> tuple[Statements, str]:
    """Collect what the file and the overrides say; the overrides of NNCF 2.x fields go into the file's content."""
    raw, label = read_document(source)
    parsed = [parse_override(text) for text in overrides]
    for override in parsed:
        if override.path[0] in READERS:
            apply_override(raw, override)
    statements = Statements()
    for path, value, pointer in flatten(own_part(raw), ()):
        statements.say(path, value, pointer)
    translate(raw, statements)
    for override in parsed:
        if override.path[0] not in READERS:
            statements.override(override.path, override.value, override.label)
    apply_recipe(statements)
    note_defaults(raw, statements)
    return statements, label


def _check(statements: Statements, document: dict[str, Any], label: str) -> Config:
    """Turn collected settings into a config, or raise with every problem found."""
    problems = list(statements.problems)
    try:
        config = Config.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        # What follows only from an NNCF 2.x field that was refused is no problem of its own.
        problems += describe_errors(
            error,
            _schema(),
            lambda path: statements.pointer(tuple(map(str, path))),
            homes(),
            after_others=bool(problems),
        )
    else:
        if not problems:
            return config
    head = f"{label}: " if len(problems) == 1 else f"{label}: {len(problems)} problems\n  "
    msg = head + "\n  ".join(problems)
    raise ConfigError(msg, problems)


def _note_surplus_samples(config: Config, statements: Statements) -> None:
    wanted, made = config.quantize.num_init_samples, config.calibration.num_samples
    if wanted > made and statements.says("quantize", "num_init_samples"):
        message = f"{wanted} samples are asked for, but only {made} are made; raise calibration.num_samples"
        statements.note("approximated", statements.pointer(("quantize", "num_init_samples")), message)


def _log(notes: Sequence[Note], label: str, count: int) -> None:
    for note in notes:
        if note.level in {"approximated", "ignored"}:
            logger.warning("%s: %s: %s: %s.", label, note.pointer, note.level, note.message)
    logger.info("Config %s: %d settings said, the rest by default; %d notes", label, count, len(notes))


def _pick(wanted: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of ``values`` that ``wanted`` has too, in the order of the sections."""
    return {
        key: _pick(wanted[key], value) if isinstance(value, Mapping) and isinstance(wanted[key], Mapping) else value
        for key, value in values.items()
        if key in wanted
    }


def _aligned(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]
