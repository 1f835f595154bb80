"""Turn a network into an ONNX graph by PyTorch's exporter, and say which layer it was when that does not work."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch import Tensor, nn

from dfq_plugin.errors import ExportError
from dfq_plugin.export.names import name_nodes
from dfq_plugin.export.translations import TRANSLATIONS

INPUT, OUTPUT = "images", "logits"


def trace_network(network: nn.Module, input_shape: tuple[int, int, int], opset: int, root: str = "") -> ir.Model:
    """A network of one image batch as an ONNX graph, batch axis dynamic, nodes named after its layers.

    Args:
        network: in eval mode.
        input_shape: one image, (C, H, W).
        opset: version of the standard operator set.
        root: dotted name of the module from which layers are named.

    Raises:
        ExportError: PyTorch cannot trace it; the message names the layer and repeats PyTorch's reason.
    """
    example = torch.zeros(2, *input_shape, device=next(network.parameters()).device)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporter are not the user's to act on
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=_dynamic_batch(),
                verbose=False,
                custom_translation_table=TRANSLATIONS,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError) as error:
        layer = _failing_layer(network, example, str(error)).removeprefix(root).lstrip(".")
        where = layer.replace(".", "/") or "the network itself"
        msg = (
            f"PyTorch cannot trace {where} for ONNX: {_reason(error)}. Write that layer in other operators, or without "
            "branches and shapes that depend on values."
        )
        raise ExportError(msg) from error
    if program is None:
        msg = "PyTorch's exporter returned nothing."
        raise ExportError(msg)
    shape = program.model.graph.inputs[0].shape
    if shape is None or isinstance(shape[0], int):
        msg = (
            f"{type(network).__name__} works for one number of images only; let it take that number from "
            "images.shape[0], which stays open, and not from len(images) or a number of its own."
        )
        raise ExportError(msg)
    name_nodes(program.model.graph, root)
    return program.model


def _dynamic_batch() -> tuple[dict[int, object]]:
    return ({0: torch.export.Dim("batch")},)


def _reason(error: BaseException) -> str:
    """The first sentence of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    unknown = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
    if unknown:
        return f"ONNX has no form of {unknown[1]}"
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "data-dependent" in first:
        return "what it does depends on the values of a tensor"
    return first.split(". ")[0].rstrip(".")


def _failing_layer(network: nn.Module, example: Tensor, message: str) -> str:
    """Dotted name of the module in which tracing failed, ``""`` when that cannot be told.

    Tracing runs the modules' own code, so the module that is still running when it fails is the one; an operator that
    fails later, on its way to ONNX, is named in the message and still knows the module it came from.
    """
    with _running(network) as modules, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=_dynamic_batch(), strict=False)
        except Exception:  # noqa: BLE001 - the caller reports the error it has; here only the place matters
            return modules[-1] if modules else ""
        named = re.findall(r"%(\w+) :", message)
    nodes = list(program.graph.nodes)
    exact = [node for node in nodes if node.name in named]
    similar = [node for node in nodes if any(name.strip("_") in node.name for name in named)]  # decomposed since
    for node in exact or similar:
        scopes = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        return str(scopes[-1]) if scopes else ""
    return ""


@contextmanager
def _running(network: nn.Module) -> Iterator[list[str]]:
    """The names of the modules whose ``forward`` is running, innermost last."""
    running: list[str] = []
    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        hooks.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()
