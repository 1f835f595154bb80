"""The rewrites of the float graph apply where they change no value, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional

from dfq_plugin.export.pads import absorb_pads
from dfq_plugin.export.rewrites import fold_constants, rewrite
from dfq_plugin.export.surgery import Surgeon, array_of


def rewritten(nodes: str, **constants: Any) -> ir.Model:
    """A float graph, in ONNX's own notation, after the rewrites."""
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        graph (float[N, 2, 4, 4] images) => (float result) {{ {nodes} }}"""
    proto = onnx.parser.parse_model(text)
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    proto.graph.initializer.extend(tensors)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    surgeon = Surgeon(model.graph)
    rewrite(surgeon)
    absorb_pads(surgeon)
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
        ([0, 2, 3], 1, ["ReduceMean"]),
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


def test_pad_of_nothing_is_dropped() -> None:
    amounts = np.zeros(8, dtype=np.int64)
    assert op_types(rewritten("padded = Pad(images, amounts) result = Relu(padded)", amounts=amounts)) == ["Relu"]


def test_pad_that_wraps_around_is_put_together_from_its_ends() -> None:
    values = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    amounts = np.array([0, 0, 1, 0, 0, 0, 2, 3])
    model = rewritten('result = Pad<mode = "wrap">(images, amounts)', amounts=amounts)
    assert op_types(model) == ["Slice", "Slice", "Concat", "Slice", "Concat"]
    (result,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"images": values})
    assert np.array_equal(result, np.pad(values, [(0, 0), (0, 0), (1, 2), (0, 3)], mode="wrap"))


@pytest.mark.parametrize(("op_type", "inputs"), [("Max", 2), ("Min", 3)])
def test_bound_by_a_number_is_a_clip(op_type: str, inputs: int) -> None:
    model = rewritten(f"result = {op_type}(bound, images)", bound=np.float32([0.5]))
    (clip,) = model.graph
    assert (clip.op_type, len(clip.inputs)) == ("Clip", inputs)
    bound = array_of(clip.inputs[-1])
    assert bound is not None
    assert (bound.shape, bound.item()) == ((), 0.5)


def test_largest_of_two_tensors_is_no_clip() -> None:
    assert op_types(rewritten("other = Neg(images) result = Max(images, other)")) == ["Neg", "Max"]


POOLED = """pooled = AveragePool<kernel_shape = [2, 2], strides = [{}], pads = [{}], ceil_mode = {},
    count_include_pad = 1>(images) result = Relu(pooled)"""


@pytest.mark.parametrize(
    ("strides", "pads", "ceil", "expected"),
    [
        ("2, 2", "0, 0, 0, 0", 0, (["AveragePool", "Relu"], 0, [0, 0, 0, 0])),
        ("2, 2", "0, 0, 0, 0", 1, (["AveragePool", "Relu"], 0, [0, 0, 0, 0])),  # four is twice two
        ("3, 3", "0, 0, 0, 0", 1, (["AveragePool", "Relu"], 1, [0, 0, 0, 0])),
        ("2, 2", "1, 1, 1, 1", 0, (["Pad", "AveragePool", "Relu"], 0, [0, 0, 0, 0])),
        ("3, 3", "1, 0, 1, 0", 1, (["Pad", "AveragePool", "Relu"], 1, [0, 0, 0, 0])),
    ],
)
def test_average_pool_counts_only_what_is_there(
    strides: str, pads: str, ceil: int, expected: tuple[list[str], int, list[int]]
) -> None:
    model = rewritten(POOLED.format(strides, pads, ceil))
    *_, pool, _ = model.graph
    attributes = {name: pool.attributes[name].value for name in ("ceil_mode", "pads", "count_include_pad")}
    assert (op_types(model), attributes["ceil_mode"], list(attributes["pads"])) == expected
    assert attributes["count_include_pad"] == 0
    values = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)
    (result,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"images": values})
    sides = [int(side) for side in pads.split(", ")]
    pooled = functional.avg_pool2d(torch.from_numpy(values), 2, int(strides[0]), sides[:2], ceil_mode=bool(ceil))
    assert np.allclose(result, pooled.relu().numpy(), rtol=0, atol=1e-6)


def test_groups_are_normalised_by_the_kernel_there_is() -> None:
    scale, bias = np.array([1.5, -2.0], dtype=np.float32), np.array([0.25, 3.0], dtype=np.float32)
    values = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    for groups in (1, 2):
        nodes = f"""normal = GroupNormalization<num_groups = {groups}, epsilon = 0.01>(images, scale, bias)
            result = Relu(normal)"""
        model = rewritten(nodes, scale=scale, bias=bias)
        assert op_types(model) == ["Reshape", "InstanceNormalization", "Reshape", "Mul", "Add", "Relu"]
        (result,) = ReferenceEvaluator(ir.to_proto(model)).run(None, {"images": values})
        tensors = map(torch.from_numpy, (scale, bias))
        expected = functional.group_norm(torch.from_numpy(values), groups, *tensors, eps=0.01)
        assert np.allclose(result, expected.relu().numpy(), rtol=0, atol=1e-5)


def test_pool_of_single_elements_that_leaves_some_out_stays() -> None:
    pool = "AveragePool<kernel_shape = [1, 1], strides = [{0}, {0}]>(images)"
    for stride, expected in ((1, ["Relu"]), (2, ["AveragePool", "Relu"])):
        assert op_types(rewritten(f"pooled = {pool.format(stride)} result = Relu(pooled)")) == expected


def test_constant_that_nothing_read_for_a_while_is_in_the_graph_when_asked_for_again() -> None:
    model = rewritten("result = Relu(images)")
    surgeon = Surgeon(model.graph)
    first = surgeon.integers("axes", [2, 3])
    surgeon.remove_dead()
    assert not model.graph.initializers
    assert surgeon.integers("axes", [2, 3]) is first
    assert list(model.graph.initializers) == ["axes"]


def test_what_depends_on_nothing_is_worked_out() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
        graph (float[N, 4] images) => (float[N, 4] result) <int64[1] four = {4}>
        { zeros = ConstantOfShape(four) ones = Exp(zeros) result = Add(images, ones) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    fold_constants(model)
    assert op_types(model) == ["Add"]
    added = array_of(model.graph[0].inputs[1])
    assert added is not None
    assert added.tolist() == [1, 1, 1, 1]
