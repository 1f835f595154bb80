"""Which tensors get a quantizer, which of them share one, and what becomes of those NNCF placed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nncf.torch.function_hook import get_hook_storage
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.quantization.completion import Completion, complete
from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph
from dfq_plugin.quantization.placement import placed_quantizers, quantizer_of
from dfq_plugin.tests.quantization.networks import Branches, asymmetric, put, symmetric, traced


class Net(nn.Module):
    """Layers of 3 channels and a function that uses them."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.run = run
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.fc, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        self.norm = nn.LayerNorm(3)
        self.vector = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self, images)


def groups_of(run: Callable[[Any, Tensor], Tensor], **options: Any) -> list[list[str]]:
    _, graph = traced(Net(run))
    return [[graph.own_name(name) for name in group] for group in Completion(graph, (), **options).groups]


def split(values: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``run`` makes of values that it reads more than once."""
    return run(values)


ONE, TWO = "one/conv2d/0", "two/conv2d/0"
CASES: dict[str, tuple[Callable[[Any, Tensor], Tensor], list[list[str]]]] = {
    "a_convolution_at_the_end_too": (lambda net, x: net.one(x), [["images"], [ONE]]),
    "behind_the_rectifier": (lambda net, x: net.two(F.relu6(net.one(x))), [["images"], ["/relu6/0"], [TWO]]),
    "on_both_sides_of_a_rectifier_when_the_convolution_is_read_twice": (
        lambda net, x: split(net.one(x), lambda y: net.two(F.relu(y)) + y),
        [["images"], [ONE], ["/relu/0"], [TWO]],
    ),
    "of_both_addends": (
        lambda net, x: net.three(net.one(x) + net.two(x)),
        [["images"], [ONE], [TWO], ["/add/0"], ["three/conv2d/0"]],
    ),
    "not_of_a_sum_with_a_parameter": (lambda net, x: net.one(x) + net.vector, [["images"], [ONE]]),
    "not_of_a_multiple": (lambda net, x: net.one(x) * 2.0, [["images"], [ONE]]),
    "parts_of_a_concatenation_together": (
        lambda net, x: net.three(torch.cat([F.max_pool2d(x, 1), net.one(x)], dim=1)[:, :3]),
        [["images", ONE], ["three/conv2d/0"]],
    ),
    "concatenations_that_have_a_part_in_common_together": (
        lambda net, x: split(
            F.relu(net.one(x)),
            lambda y: net.three(torch.cat([x, y], 1)[:, :3]) + net.three(torch.cat([y, net.two(y)], 1)[:, 3:]),
        ),
        [["images", "/relu/0", TWO], ["three/conv2d/0"], ["three/conv2d/1"]],
    ),
    "not_of_a_linear_result_that_float_reads": (
        lambda net, x: net.norm(net.fc(x.flatten(2).transpose(1, 2))),
        [["images"]],
    ),
    "of_float_results_that_a_product_reads": (
        lambda net, x: net.fc(net.norm(x.flatten(2).transpose(1, 2))),
        [["norm/layer_norm/0"]],
    ),
    "of_gates": (
        lambda net, x: net.one(x) * torch.sigmoid(net.two(x.mean((2, 3), keepdim=True))),
        [["images"], [ONE], ["/mean/0"], [TWO], ["/sigmoid/0"]],
    ),
}


@pytest.mark.parametrize(("run", "expected"), CASES.values(), ids=CASES.keys())
def test_quantizers_are_wanted(run: Callable[[Any, Tensor], Tensor], expected: list[list[str]]) -> None:
    found = groups_of(run)
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


def test_output_is_wanted_when_asked_for() -> None:
    assert ["/mean/0"] not in groups_of(lambda net, x: net.one(x).mean((2, 3)))
    assert ["/mean/0"] in groups_of(lambda net, x: net.one(x).mean((2, 3)), quantize_outputs=True)


def test_ignored_operators_ask_for_nothing_but_their_neighbours_do() -> None:
    _, graph = traced(Net(lambda net, x: net.three(net.two(net.one(x)))))
    groups = Completion(graph, ["network/two/conv2d/0"]).groups
    assert groups == [["images"], ["network/one/conv2d/0"], ["network/two/conv2d/0"], ["network/three/conv2d/0"]]
    alone = Completion(graph, ["network/one/conv2d/0", "network/two/conv2d/0"]).groups
    assert alone == [["network/two/conv2d/0"], ["network/three/conv2d/0"]]


def completed(body: Body, graph: OperatorGraph, **options: Any) -> set[str]:
    settings = {"preset": "performance", "overflow_fix": "disable", **options}
    return complete(body, Completion(graph, ()), graph, **settings)


class TestComplete:
    def test_every_tensor_and_weight_gets_one_quantizer_when_there_was_none(self) -> None:
        body, graph = traced(Branches())
        fresh = completed(body, graph)
        hooks = placed_quantizers(body)
        assert fresh == {name for name in hooks if name.startswith("post")}
        shared = hooks["post_hooks.network/relu/0__0.0"]
        assert shared == ["post_hooks.network/relu/0__0.0", "post_hooks.network/relu/1__0.0"]
        weights = {name for name in hooks if name.startswith("pre")}
        assert weights == {f"pre_hooks.network/{name}__1.0" for name in LAYERS}

    def test_quantizers_of_one_tensor_become_one_that_reaches_as_far_as_both(self) -> None:
        body, graph = traced(Branches())
        put(body, "pre", "network/left/conv2d/0", 0, symmetric(1.0, signed=False))
        put(body, "pre", "network/right/conv2d/0", 0, symmetric(2.0))
        fresh = completed(body, graph)
        names = [name for name in placed_quantizers(body) if "images" in name]
        assert names == ["post_hooks.images__0.0"]
        assert names[0] not in fresh
        kept = quantizer_of(body, names[0])
        assert kept.signed
        assert kept.scale.item() >= 2.0

    def test_a_quantizer_below_a_rearranging_operator_moves_above_it(self) -> None:
        body, graph = traced(Branches())
        quantizer = put(body, "post", "network/max_pool2d/0", 0, asymmetric(0.0, 1.0))
        completed(body, graph)
        assert quantizer_of(body, "post_hooks.network/relu/1__0.0") is quantizer

    def test_quantizers_that_only_float_operators_see_are_taken_out(self) -> None:
        body, graph = traced(Net(lambda net, x: net.norm(net.fc(x.flatten(2).transpose(1, 2)))))
        put(body, "post", "network/fc/linear/0", 0, symmetric())
        completed(body, graph)
        assert "post_hooks.network/fc/linear/0__0.0" not in placed_quantizers(body)

    def test_new_quantizers_of_weights_reach_the_largest_value_of_each_channel(self) -> None:
        body, graph = traced(Branches())
        weight = body.get_parameter("network.left.weight").data
        weight[0], weight[1] = torch.tensor([[[0.5]], [[-2.0]], [[1.0]]]), 0.0
        completed(body, graph)
        quantizer = quantizer_of(body, "pre_hooks.network/left/conv2d/0__1.0")
        assert quantizer.scale.flatten().tolist() == pytest.approx([2.0, 0.02])  # a dead channel keeps a usable grid
        assert (quantizer.level_low, quantizer.level_high) == (-127, 127)

    def test_new_quantizers_of_weights_use_half_of_the_codes_when_products_could_overflow(self) -> None:
        body, graph = traced(Branches())
        completed(body, graph, overflow_fix="enable")
        quantizer = quantizer_of(body, "pre_hooks.network/left/conv2d/0__1.0")
        largest = body.get_parameter("network.left.weight").abs().amax((1, 2, 3))
        assert torch.allclose(quantizer.scale.flatten(), 2 * largest)

    def test_new_quantizers_have_a_zero_point_of_their_own_when_the_preset_is_mixed(self) -> None:
        body, graph = traced(Branches())
        completed(body, graph, preset="mixed")
        assert type(quantizer_of(body, "post_hooks.images__0.0")).__name__ == "AsymmetricQuantizer"

    def test_quantizers_of_products_of_constants_are_taken_out(self) -> None:
        body, graph = traced(Net(lambda net, x: net.one(x) + net.two(torch.ones(1, 3, 1, 1))))
        put(body, "pre", "network/two/conv2d/0", 1, symmetric(torch.ones(3, 1, 1, 1)))
        completed(body, graph)
        assert not any("/two/" in name for name in placed_quantizers(body))


LAYERS = ("left/conv2d/0", "right/conv2d/0", "last/conv2d/0", "fc/linear/0")


def test_completion_leaves_the_storage_of_hooks_usable() -> None:
    body, graph = traced(Branches())
    completed(body, graph)
    assert len(list(get_hook_storage(body).named_hooks())) == len(placed_quantizers(body))
