"""What layers of teacher and student give, read while the two run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from dfq_plugin.config.scopes import compile_scope
from dfq_plugin.errors import ConfigError, UnsupportedModelError
from dfq_plugin.student import Student
from dfq_plugin.teacher import read_facts

Outputs = list[Tensor]


@contextmanager
def compared_layers(teacher: nn.Module, student: Student, names: tuple[str, ...]) -> Iterator[tuple[Outputs, Outputs]]:
    """Read the outputs of layers, by the names that they have in the teacher, while the block runs.

    Args:
        teacher: the float network.
        student: its quantized copy, in which layers keep their names.
        names: of the layers, or ``{re}`` and what the names of several match from their start; none of them for the
            pooled feature, the input of the classifier.

    Yields:
        Two lists, the teacher's outputs and the student's, that hold those of the latest forward pass.

    Raises:
        ConfigError: there is no layer of that name, or the teacher has no pooled feature.
    """
    pooled = not names
    wanted = _matched(teacher, names) or [_classifier(teacher, student)]
    seen: tuple[Outputs, Outputs] = [], []
    with ExitStack() as stack:
        for network, outputs in zip((teacher, _body(student)), seen, strict=True):
            stack.callback(network.register_forward_pre_hook(lambda *_, outputs=outputs: outputs.clear()).remove)
            for name in wanted:
                stack.callback(_tap(_find(network, name), outputs, pooled=pooled))
        yield seen


def _tap(layer: nn.Module, outputs: Outputs, *, pooled: bool) -> Any:  # noqa: ANN401 - a function that removes the hook
    def keep_input(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        outputs.append(inputs[0].flatten(start_dim=1))

    def keep_output(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        outputs.append(output)

    if pooled:
        return layer.register_forward_pre_hook(keep_input).remove
    return layer.register_forward_hook(keep_output).remove


def _matched(teacher: nn.Module, names: tuple[str, ...]) -> list[str]:
    """Every name once, with the names of layers in place of the expressions that they match."""
    wanted: dict[str, None] = {}
    for name in names:
        expression = compile_scope(name)
        found = [name] if expression is None else [own for own, _ in teacher.named_modules() if expression.match(own)]
        if not found:
            msg = f"finetune.feature_layers: {type(teacher).__name__} has no layer that matches '{name}'."
            raise ConfigError(msg)
        wanted |= dict.fromkeys(found)
    return list(wanted)


def _find(network: nn.Module, name: str) -> nn.Module:
    try:
        return network.get_submodule(name)
    except AttributeError as error:
        msg = f"finetune.feature_layers: {type(network).__name__} has no layer '{name}'."
        raise ConfigError(msg) from error


def _classifier(teacher: nn.Module, student: Student) -> str:
    found = read_facts(teacher, student.input_shape).classifier
    if found is None:
        msg = (
            "The teacher has no Linear or 1x1 convolution that gives the classes; name finetune.feature_layers instead."
        )
        raise UnsupportedModelError(msg)
    return found


def _body(student: Student) -> nn.Module:
    """The module of the student that has the teacher's names: the network itself, or the copy one level down in it."""
    inner = getattr(student.network, "network", None)
    return inner if isinstance(inner, nn.Module) else student.network
