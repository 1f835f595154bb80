"""Names of operations: NNCF 2.x to NNCF 3.x, and matching of ``{re}`` patterns and module names against both.

NNCF 2.x wrote ``ResNet/Sequential[layer1]/BasicBlock[0]/NNCFConv2d[conv1]/conv2d_0``; NNCF 3.x writes
``layer1/0/conv1/conv2d/0``. A full name can be translated. A regular expression cannot, so it is tried on both forms.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from dfq_plugin.errors import ConfigError

QuantizerGroup = Literal["WEIGHT", "INPUT", "OUTPUT"]

REGEX_PREFIX = "{re}"
MODEL_INPUT = re.compile(r"/nncf_model_input_(\d+)")
# Python operators, as NNCF 2.x recorded them and as NNCF 3.4 does.
OPERATOR_NAMES = {
    "__add__": "add",
    "__radd__": "add",
    "__iadd__": "add_",
    "__sub__": "sub",
    "__isub__": "sub_",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__imul__": "mul_",
    "__matmul__": "matmul",
    "__truediv__": "div",
    "__itruediv__": "div_",
    "__rtruediv__": "__rdiv__",
    "__neg__": "neg",
    "__pow__": "pow",
}
# Modules that NNCF 2.x replaced by its own class, which shows in its names; the operation tells which one it was.
WRAPPED_MODULES = {
    "conv1d": "Conv1d",
    "conv2d": "Conv2d",
    "conv3d": "Conv3d",
    "conv_transpose1d": "ConvTranspose1d",
    "conv_transpose2d": "ConvTranspose2d",
    "conv_transpose3d": "ConvTranspose3d",
    "linear": "Linear",
    "batch_norm": "BatchNorm2d",
    "group_norm": "GroupNorm",
    "layer_norm": "LayerNorm",
    "embedding": "Embedding",
}


def translate_scope(scope: str) -> str:
    """Turn an NNCF 2.x name into the NNCF 3.x one; ``{re}`` patterns, model inputs and 3.x names come back unchanged.

    A 2.x name that ends in a module (``ResNet/NNCFLinear[fc]``) becomes the module's name (``fc``).
    """
    parts = scope.split("/")
    if scope.startswith(REGEX_PREFIX) or MODEL_INPUT.fullmatch(scope) or len(parts) == 1 or parts[-1].isdigit():
        return scope
    modules = [_module_name(part) for part in parts[1:]]
    if parts[-1].endswith("]"):
        return "/".join(modules)
    operator, _, call = parts[-1].rpartition("_")
    if not (operator and call.isdigit()):
        return scope
    path = "/".join(modules[:-1])  # empty for an operation of the network itself, whose 3.x name starts with "/"
    return f"{path}/{OPERATOR_NAMES.get(operator, operator)}/{call}"


def _module_name(part: str) -> str:
    return part[part.index("[") + 1 : -1] if "[" in part and part.endswith("]") else part


def split_quantizer_scope(key: str) -> tuple[str, QuantizerGroup | None]:
    """Split ``'scope|WEIGHT'`` into scope and quantizer group; no ending means every quantizer of the operation.

    Raises:
        ConfigError: nothing stands before the ending.
    """
    scope, group = key, None
    for name in ("WEIGHT", "INPUT", "OUTPUT"):
        if key.endswith(f"|{name}"):
            scope, group = key[: -len(name) - 1], name
    if not scope.removeprefix(REGEX_PREFIX):
        msg = f"{key!r} names no operation; write 'scope', 'scope|WEIGHT', 'scope|INPUT' or 'scope|OUTPUT'"
        raise ConfigError(msg)
    return scope, group  # type: ignore[return-value]


def compile_scope(scope: str) -> re.Pattern[str] | None:
    """The regular expression of a ``{re}`` scope, None for a plain name.

    Raises:
        ConfigError: the expression has a syntax error.
    """
    if not scope.startswith(REGEX_PREFIX):
        return None
    try:
        return re.compile(scope.removeprefix(REGEX_PREFIX))
    except re.error as error:
        msg = f"{scope!r} is not a regular expression: {error}"
        raise ConfigError(msg) from error


def legacy_name(name: str, module_types: Mapping[str, str] | None = None) -> str | None:
    """The name NNCF 2.x would have given an operation, as far as it can be known; None for inputs and parameters.

    Args:
        name: the NNCF 3.x name.
        module_types: class name of each module by dotted name, the network itself under ``""``. Classes that are
            not given are written ``Model`` and ``Module``.
    """
    *modules, operator, call = name.split("/") if name.count("/") >= 2 else ["", "", ""]
    if not call.isdigit():
        return None
    types = module_types or {}
    modules = [module for module in modules if module]
    parts = [types.get("", "Model")]
    for depth, module in enumerate(modules, start=1):
        kind = types.get(".".join(modules[:depth]), "Module")
        wrapped = WRAPPED_MODULES.get(operator) if depth == len(modules) else None
        if wrapped is not None and kind in {"Module", wrapped}:
            kind = f"NNCF{wrapped}"
        parts.append(f"{kind}[{module}]")
    old_names = {new: old for old, new in reversed(OPERATOR_NAMES.items())}
    return "/".join([*parts, f"{old_names.get(operator, operator)}_{call}"])


def match_scopes(
    patterns: Iterable[str],
    names_3x: Iterable[str],
    *,
    module_types: Mapping[str, str] | None = None,
    inputs: Sequence[str] = (),
    require: bool = False,
) -> list[str]:
    """Find the operations that scopes stand for.

    A plain scope is an operation name, a module name (all operations inside), or an NNCF 2.x name. A ``{re}`` scope
    is searched for anywhere in the NNCF 3.x name and in the reconstructed NNCF 2.x name.

    Args:
        patterns: scopes.
        names_3x: names of the operations to choose from.
        module_types: see ``legacy_name``; lets 2.x patterns that mention classes match.
        inputs: names of the network's inputs in order, what ``/nncf_model_input_0`` and so on stand for.
        require: whether a scope that matches nothing is an error.

    Returns:
        The matched names, each once, in the order of ``names_3x``.

    Raises:
        ConfigError: a pattern has a syntax error, or matches nothing although ``require``.
    """
    names = list(names_3x)
    old_names = {name: legacy_name(name, module_types) or "" for name in names}
    matched: set[str] = set()
    for scope in patterns:
        found = _match_one(scope, names, old_names, inputs)
        if require and not found:
            nearest = difflib.get_close_matches(translate_scope(scope), names, n=3, cutoff=0.5) or names[:10]
            msg = f"Scope {scope!r} matches no operation; there are, among {len(names)}: {', '.join(nearest)}."
            raise ConfigError(msg)
        matched.update(found)
    return [name for name in names if name in matched]


def _match_one(scope: str, names: list[str], old_names: Mapping[str, str], inputs: Sequence[str]) -> list[str]:
    pattern = compile_scope(scope)
    if pattern is not None:
        return [name for name in names if pattern.search(name) or pattern.search(old_names[name])]
    number = MODEL_INPUT.fullmatch(scope)
    if number is not None:
        position = int(number[1])
        return [name for name in names if position < len(inputs) and name == inputs[position]]
    for candidate in (scope, translate_scope(scope)):
        found = [name for name in names if name == candidate or name.startswith(f"{candidate}/")]
        if found:
            return found
    # NNCF releases differ in whether an in-place call keeps its underscore: relu_ and relu, hardtanh_ and hardtanh.
    wanted = _without_inplace(translate_scope(scope))
    return [name for name in names if _without_inplace(name) == wanted]


def _without_inplace(name: str) -> str:
    return re.sub(r"_+(?=/\d+$)", "", name)
