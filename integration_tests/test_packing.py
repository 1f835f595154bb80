"""Weights packed in any form give the same bits on the same kernels, from smaller files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.export.packing import Packing, store_codes
from dfq_plugin.export.surgery import Surgeon, array_of
from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export

SHAPE = (3, 8, 8)


def network(bits: int, last_bits: int = 8) -> Network:
    def forward(net: nn.Module, values: Tensor) -> Tensor:
        low = net.low(F.relu(net.conv(net.images(values))))
        return net.fc(net.pooled(net.high(net.deep(low)).mean((2, 3))))

    return Network(
        forward,
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 40, 3, padding=1), bits),
        low=activation(1 / 2, 0),
        deep=Layer(nn.Conv2d(40, 41, 3, padding=1), bits, input_step=1 / 2),
        high=activation(4.0, 128),
        pooled=activation(1.0, 128),
        fc=Layer(nn.Linear(41, 5), last_bits, input_step=1.0),
    )


@pytest.mark.parametrize(
    ("bits", "packing"),
    [(4, "int4"), (2, "int4"), (2, "int2"), (3, "int2")] + [(bits, "bitplanes") for bits in range(2, 8)],
)
def test_packed_weights_run_on_the_same_kernels_and_give_the_same(bits: int, packing: Packing, tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.onnx", tmp_path / "packed.onnx"
    expected = check(network(bits), SHAPE, plain)  # both equal PyTorch bit by bit
    assert check(network(bits), SHAPE, packed, packing) == expected
    stored = {"int4": 4, "int2": 2 if bits == 2 else 4, "bitplanes": bits}[packing]
    assert plain.stat().st_size - packed.stat().st_size > 40 * 41 * 9 * (8 - stored) / 8 - 1000
    onnx.checker.check_model(str(packed), full_check=True)


def test_only_a_file_that_holds_int2_declares_what_knows_it(tmp_path: Path) -> None:
    for bits, packing, versions in [(2, "int2", (25, 13)), (3, "int2", (21, 10)), (2, "bitplanes", (21, 10))]:
        path = export(network(bits), SHAPE, tmp_path / f"{bits}{packing}.onnx", packing)  # type: ignore[arg-type]
        model = onnx.load(path)
        assert (model.opset_import[0].version, model.ir_version) == versions


def test_each_tensor_takes_the_form_its_bits_allow(tmp_path: Path) -> None:
    kinds = {}
    for packing in ("none", "int4", "int2", "bitplanes"):
        path = export(network(2, last_bits=4), SHAPE, tmp_path / f"{packing}.onnx", packing)
        graph = Graph(path)
        products = graph.of_type("Conv", "Gemm")
        kinds[packing] = [stored_type(graph, graph.dequantizer(product, 1).input[0]) for product in products]
    int8, int4, int2, planes = TensorProto.INT8, TensorProto.INT4, TensorProto.INT2, TensorProto.UINT8
    assert kinds == {
        "none": [int8, int8, int8],
        "int4": [int4, int4, int8],  # the last weight, of 205 codes, is smaller than an operator to unpack it
        "int2": [int2, int2, int8],
        "bitplanes": [int8, planes, int8],  # planes take more operators to unpack than INT4 does
    }


def stored_type(graph: Graph, name: str) -> int:
    """The type of the first tensor that codes are unpacked from."""
    while name not in graph.tensors:
        maker = graph.maker(name)
        assert maker is not None
        name = next((source for source in maker.input if "_" in source and "weight" in source), maker.input[0])
    return graph.tensors[name].data_type


@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
@pytest.mark.parametrize("count", [20000, 20003])
def test_bit_planes_hold_every_code_there_is(bits: int, count: int) -> None:
    codes = np.resize(np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1)), (count, 1)).astype(np.int8)
    graph, where = small_graph()
    value = store_codes(Surgeon(graph), where, codes, "weight", bits=bits, packing="bitplanes")
    arrays = {name: array_of(value) for name, value in graph.initializers.items()}
    assert sorted(array.nbytes for array in arrays.values() if array is not None)[-1] == bits * -(-count // 8)
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    model.graph.output.append(onnx.helper.make_tensor_value_info(str(value.name), TensorProto.INT8, [count, 1]))
    unpacked = ReferenceEvaluator(model).run([str(value.name)], {"given": np.zeros(1, np.float32)})[0]
    assert unpacked.dtype == np.int8
    assert np.array_equal(unpacked, codes)


def small_graph() -> tuple[ir.Graph, ir.Node]:
    given = ir.Value(name="given", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.FLOAT))
    where = ir.node("Identity", [given], name="where")
    where.outputs[0].name, where.outputs[0].type = "same", given.type
    return ir.Graph([given], [where.outputs[0]], nodes=[where], opset_imports={"": 21}, name="graph"), where


@pytest.mark.parametrize("packing", ["int4", "int2", "bitplanes"])
def test_tensor_that_would_not_become_smaller_stays_plain(packing: Packing) -> None:
    graph, where = small_graph()
    surgeon = Surgeon(graph)
    codes = np.ones((3, 3), dtype=np.int8)
    value = store_codes(surgeon, where, codes, "weight", bits=2, packing=packing)
    assert value.producer() is None
    assert np.array_equal(array_of(value), codes)
    surgeon.remove_dead()
    assert [node.op_type for node in graph] == ["Identity"]
