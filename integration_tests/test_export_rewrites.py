"""The rewrites of the float graph apply where they change no value, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from dfq_plugin.export.rewrites import rewrite
from dfq_plugin.export.surgery import Surgeon


def rewritten(nodes: str, **constants: Any) -> ir.Model:
    """A float graph, in ONNX's own notation, after the rewrites."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        graph (float[N, 2, 4, 4] images) => (float result) {{ {nodes} }}"""
    proto = onnx.parser.parse_model(text)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    proto.graph.initializer.extend(tensors)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    rewrite(Surgeon(model.graph))
    return model


def op_types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("axes", "keepdims", "expected"),
    [
        ([2, 3], 1, ["GlobalAveragePool"]),
        ([-1, -2], 0, ["GlobalAveragePool", "Reshape"]),
        ([3], 1, ["ReduceMean"]),
        ([1, 2, 3], 1, ["ReduceMean"]),
    ],
)
def test_only_a_mean_over_height_and_width_is_a_pool(axes: list[int], keepdims: int, expected: list[str]) -> None:
    model = rewritten(f"result = ReduceMean<keepdims = {keepdims}>(images, axes)", axes=np.array(axes))
    assert op_types(model) == expected
    assert [output.name for output in model.graph.outputs] == ["result"]


@pytest.mark.parametrize(("axis", "expected"), [(1, ["Reshape"]), (2, ["Flatten"])])
def test_only_a_flatten_of_all_but_the_batch_is_a_reshape(axis: int, expected: list[str]) -> None:
    assert op_types(rewritten(f"result = Flatten<axis = {axis}>(images)")) == expected


@pytest.mark.parametrize(
    ("pad", "amounts", "expected"),
    [
        ("Pad(images, amounts)", [0, 0, 1, 0, 0, 0, 2, 3], [1, 1, 2, 4]),
        ("Pad(images, amounts, zero)", [0, 0, 1, 0, 0, 0, 2, 3], [1, 1, 2, 4]),
        ("Pad(images, amounts, one)", [0, 0, 1, 0, 0, 0, 2, 3], None),
        ('Pad<mode = "reflect">(images, amounts)', [0, 0, 1, 0, 0, 0, 2, 3], None),
        ("Pad(images, amounts)", [0, 0, -1, 0, 0, 0, 2, 3], None),
        ("Pad(images, amounts)", [0, 1, 1, 0, 0, 0, 2, 3], None),
        ("Pad(images, amounts)", [0, 0, 1, 0, 1, 0, 2, 3], None),
    ],
    ids=["by default", "zero", "one", "reflected", "cropped", "channels", "batch"],
)
def test_only_zeros_around_the_image_become_the_padding_of_the_convolution(
    pad: str, amounts: list[int], expected: list[int] | None
) -> None:
    channels = 3 if amounts[1] else 2
    constants = {"amounts": np.array(amounts), "zero": np.float32(0), "one": np.float32(1)}
    model = rewritten(
        f"padded = {pad} result = Conv<pads = [0, 1, 0, 1]>(padded, weight)",
        weight=np.ones((1, channels, 2, 2), dtype=np.float32),
        **constants,
    )
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert op_types(model) == (["Pad", "Conv"] if expected is None else ["Conv"])
    assert list(conv.attributes["pads"].as_ints()) == (expected or [0, 1, 0, 1])


def test_padding_that_others_read_stays() -> None:
    model = rewritten(
        "padded = Pad(images, amounts) sum = Conv(padded, weight) result = Concat<axis = 1>(sum, padded)",
        amounts=np.array([0, 0, 0, 0, 0, 0, 1, 1]),
        weight=np.ones((1, 2, 1, 1), dtype=np.float32),
    )
    assert op_types(model) == ["Pad", "Conv", "Concat"]
