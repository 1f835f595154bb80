"""Error messages for config files: where, which value, what is allowed, and the nearest known key."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from dfq_plugin.config.legacy_schema import MANY, ONE

Location = tuple[str | int, ...]
Schema = Mapping[str, Any]
FORMS = {ONE, MANY}  # in a location they tell which form of an alternative was tried; they are no keys of the file


def describe_errors(
    error: ValidationError,
    schema: Schema,
    pointer_of: Callable[[Location], str],
    homes: Mapping[str, Sequence[str]],
    *,
    after_others: bool = False,
) -> list[str]:
    """Turn what pydantic found into one line a problem.

    Args:
        error: what pydantic found.
        schema: JSON schema of the model that was checked.
        pointer_of: where in the user's file a location is.
        homes: JSON pointers of the places where a key is known, by key.
        after_others: whether other problems are known already; what may only follow from them is left out then.
    """
    lines = []
    for detail in error.errors(include_url=False):
        location = tuple(key for key in detail["loc"] if key not in FORMS)
        where, kind = pointer_of(location), detail["type"]
        if after_others and (kind == "missing" or not location):
            continue
        if kind == "extra_forbidden":
            lines.append(f"{where}: unknown key. {suggest(str(location[-1]), schema, location[:-1], homes)}")
        elif kind == "missing":
            lines.append(f"{where}: missing; give {allowed(schema, location)}.")
        elif kind == "value_error":
            lines.append(f"{where}: {detail['ctx']['error']}.")
        else:
            lines.append(f"{where}: got {shorten(detail['input'])}, expected {allowed(schema, location)}.")
    return lines


def suggest(key: str, schema: Schema, parent: Location, homes: Mapping[str, Sequence[str]]) -> str:
    """What to write instead of an unknown key: its proper place, the nearest spelling, or the list of what exists."""
    forms = _forms(find(schema, parent), schema)
    known = sorted(name for form in forms for name, part in form.get("properties", {}).items() if _is_current(part))
    if key in homes:
        return f"Move it to {' or '.join(homes[key][:3])}."
    near = difflib.get_close_matches(key, known, n=1) or [name for name in known if name.startswith(key)]
    if near:
        return f"Did you mean {near[0]!r}?"
    elsewhere = difflib.get_close_matches(key, homes, n=1, cutoff=0.8)
    if elsewhere:
        return f"Did you mean {elsewhere[0]!r}, at {' or '.join(homes[elsewhere[0]][:3])}?"
    return f"Known here: {', '.join(known)}."


def allowed(schema: Schema, location: Location) -> str:
    """What may stand at a place, in words."""
    return _describe(find(schema, location), schema)


def find(schema: Schema, location: Location) -> Schema:
    """The part of a JSON schema that is about one location, empty when nothing is."""
    place: Schema = schema
    for key in location:
        place = next((found for form in _forms(place, schema) if (found := _step(form, key)) is not None), {})
    return place


def _is_current(place: Schema) -> bool:
    return not place.get("deprecated", False)


def shorten(value: object) -> str:
    """A value as it is repeated in a message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _step(schema: Schema, key: str | int) -> Schema | None:
    if isinstance(key, int):
        places = schema.get("prefixItems", [])
        found = places[key] if key < len(places) else schema.get("items")
    else:
        found = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return found if isinstance(found, Mapping) else None


def _forms(place: Schema, root: Schema) -> Iterator[Schema]:
    """The alternatives of a schema, references followed."""
    if "$ref" in place:
        yield from _forms(root["$defs"][place["$ref"].rpartition("/")[2]], root)
        return
    alternatives = place.get("anyOf", place.get("oneOf"))
    if alternatives is None or "allowed" in place or "properties" in place:
        yield place
        return
    for alternative in alternatives:
        yield from _forms(alternative, root)


def _describe(place: Schema, root: Schema) -> str:
    if "allowed" in place:
        return str(place["allowed"])
    return _either([option for form in _forms(place, root) for option in _options(form, root)])


def _options(form: Schema, root: Schema) -> list[str]:
    if "enum" in form or "const" in form:
        return [repr(value) for value in form.get("enum", [form.get("const")])]
    return [str(form["allowed"]) if "allowed" in form else _describe_type(form, root)]


def _describe_type(form: Schema, root: Schema) -> str:
    kind = form.get("type", "")
    if kind in {"integer", "number"}:
        return f"{'an' if kind == 'integer' else 'a'} {kind}{_bounds(form)}"
    if kind == "array" and "prefixItems" in form:
        return f"[{', '.join(_describe(item, root) for item in form['prefixItems'])}]"
    if kind == "array":
        item = _describe(form.get("items", {}), root)
        return f"a list of {item.replace('an integer', 'integers').replace('a number', 'numbers')}"
    return {"boolean": "true or false", "string": "text", "object": "an object", "null": "null"}.get(kind, "a value")


def _either(options: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(options[:-1]), *options[-1:]]))


def _bounds(form: Schema) -> str:
    low, high, above = form.get("minimum"), form.get("maximum"), form.get("exclusiveMinimum")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    if above is not None:
        return f" above {above:g}"
    return f" of at least {low:g}" if low is not None else ""


def places_of_keys(models: Mapping[str, type[BaseModel]], *, without: Sequence[str] = ()) -> dict[str, list[str]]:
    """JSON pointers of every key below some models, shallow ones first.

    Args:
        models: the models, by the JSON pointer at which they stand.
        without: JSON pointers to leave out, with all that is below.
    """
    places: dict[str, list[str]] = {}
    schemas = {pointer: model.model_json_schema(by_alias=True) for pointer, model in models.items()}
    queue = deque((pointer, schema, schema) for pointer, schema in schemas.items())
    while queue:
        pointer, place, root = queue.popleft()
        for form in _forms(place, root):
            for key, part in form.get("properties", {}).items():
                below = f"{pointer}/{key}"
                if below not in without:
                    places.setdefault(key, []).append(below)
                    queue.append((below, part, root))
    return {key: list(dict.fromkeys(pointers)) for key, pointers in places.items()}
