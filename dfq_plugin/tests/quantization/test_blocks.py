"""Blocks: where networks are cut, and that running them one after the other is running the network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.quantization.blocks import Block, BlockRunner, find_blocks
from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph
from dfq_plugin.student import QuantizerSite
from dfq_plugin.tests.quantization.networks import Branches, filled, put, traced

IMAGES = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(4))


class Residual(nn.Module):
    """Stem, two residual blocks, the second with a layer on its shortcut, pooled head; some of it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.b1, self.b2, self.down = nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(4, 6, 1, 2)
        self.fc = nn.Linear(6, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        low = F.relu(self.stem(pixels), inplace=True)
        low = F.relu(self.a2(F.relu(self.a1(low))) + low)
        inner = self.b2(F.relu(self.b1(low)))
        inner += self.down(low)
        high = F.relu(inner).mean((2, 3))
        logits: Tensor = self.fc(high.view(high.shape[0], -1))
        return logits


class Bottlenecks(nn.Module):
    """A stem and two inverted bottlenecks, the second with an identity beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.expand1, self.depthwise1 = nn.Conv2d(4, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.project1 = nn.Conv2d(24, 4, 1)
        self.expand2, self.depthwise2 = nn.Conv2d(4, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.project2 = nn.Conv2d(24, 4, 1)
        self.head = nn.Conv2d(4, 5, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        low = F.relu6(self.stem(pixels))
        low = self.project1(F.relu6(self.depthwise1(F.relu6(self.expand1(low)))))
        low = low + self.project2(F.relu6(self.depthwise2(F.relu6(self.expand2(low)))))
        logits: Tensor = F.relu6(self.head(low)).mean((2, 3))
        return logits


def separable() -> nn.Module:
    """Depthwise and pointwise layers in a chain, whose tensors do not grow."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    )


class LongSkip(nn.Module):
    """The image is read again at the very end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = (self.second(F.relu(self.first(pixels))) + pixels).mean((2, 3))
        return logits


NETWORKS = {
    "residual": Residual,
    "bottlenecks": Bottlenecks,
    "separable": separable,
    "branches": Branches,
    "long_skip": LongSkip,
}


def ready(name: str) -> tuple[Body, OperatorGraph, list[Block]]:
    body, graph = traced(filled(NETWORKS[name]()))
    return body, graph, find_blocks(graph, body)


def layers_of(blocks: list[Block]) -> list[list[str]]:
    """Names of the layers with weights in each block."""
    types = ("conv2d", "linear")
    return [[name.split("/")[1] for name in block.operators if name.split("/")[-2] in types] for block in blocks]


class TestFinding:
    def test_branch_and_shortcut_are_one_block(self) -> None:
        _, _, blocks = ready("residual")
        assert layers_of(blocks) == [["stem"], ["a1", "a2"], ["b1", "b2", "down"], ["fc"]]
        assert [block.entry for block in blocks] == [
            "images",
            "network/relu_/0",
            "network/relu/1",
            "network/view/0",
        ]

    def test_an_inverted_bottleneck_is_one_block_with_and_without_identity(self) -> None:
        blocks = layers_of(ready("bottlenecks")[2])
        assert blocks == [
            ["stem"],
            ["expand1", "depthwise1", "project1"],
            ["expand2", "depthwise2", "project2"],
            ["head"],
        ]

    def test_a_depthwise_layer_stays_with_the_one_that_mixes_its_channels(self) -> None:
        assert layers_of(ready("separable")[2]) == [["0"], ["2", "4"], ["6", "8"], ["12"]]

    def test_branches_that_are_concatenated_are_one_block(self) -> None:
        assert layers_of(ready("branches")[2]) == [["left", "right"], ["last"], ["fc"]]

    def test_a_network_that_nothing_cuts_is_one_block(self) -> None:
        (block,) = ready("long_skip")[2]
        assert block.is_first
        assert block.exit == "network/mean/0"

    @pytest.mark.parametrize("name", NETWORKS)
    def test_blocks_follow_each_other_and_hold_every_operator_once(self, name: str) -> None:
        _, graph, blocks = ready(name)
        operators = [operator for block in blocks for operator in block.operators]
        assert operators == [node.node_name for node in graph.computing_operators()][1:]
        assert [block.entry for block in blocks[1:]] == [block.exit for block in blocks[:-1]]
        assert [block.is_first for block in blocks] == [True] + [False] * (len(blocks) - 1)

    def test_no_block_ends_inside_a_split(self) -> None:
        class Split(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.left, self.right = nn.Conv2d(3, 2, 1), nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)

            def forward(self, pixels: Tensor) -> Tensor:
                left, right = self.first(pixels).chunk(2, dim=1)
                logits: Tensor = (self.left(left) + self.right(right)).mean((2, 3))
                return logits

        body, graph = traced(filled(Split()))
        assert [block.exit for block in find_blocks(graph, body)] == ["network/first/conv2d/0", "network/mean/0"]

    def test_a_quantizer_is_in_the_block_that_reads_it(self) -> None:
        _, _, blocks = ready("residual")

        def where(name: str) -> list[int]:
            site = QuantizerSite(name, "activation", "", (), multiplied=True)
            return [index for index, block in enumerate(blocks) if block.holds(site)]

        assert where("post_hooks.images__0.0") == [0]
        assert where("pre_hooks.network/stem/conv2d/0__1.0") == [0]
        assert where("post_hooks.network/relu_/0__0.0") == [1]
        assert where("post_hooks.network/relu/0__0.0") == [1]
        assert where("post_hooks.network/a2/conv2d/0__0.0") == [1]
        assert where("post_hooks.network/relu/1__0.0") == [2]
        assert where("post_hooks.network/fc/linear/0__0.0") == []  # the network's output


class TestRunning:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_one_after_the_other_gives_what_the_network_gives(self, name: str) -> None:
        body, _, blocks = ready(name)
        values = IMAGES.clone()
        with torch.no_grad():
            expected = body(IMAGES)
            for block in blocks:
                values = BlockRunner(body, block, IMAGES[:1])(values.clone())
        assert torch.allclose(values, expected, rtol=1e-4, atol=1e-4)

    def test_takes_any_number_of_images_again_and_again(self) -> None:
        body, _, blocks = ready("residual")
        runner = BlockRunner(body, blocks[2], IMAGES[:1])
        values = torch.rand(7, 4, 8, 8)
        with torch.no_grad():
            whole = runner(values.clone())
            parts = torch.cat([runner(values[:3].clone()), runner(values[3:].clone())])
        assert torch.allclose(whole, parts, atol=1e-5)

    def test_a_network_that_asks_for_the_number_of_images_gets_that_of_the_block(self) -> None:
        class Viewed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3, padding=1)
                self.classifier = nn.Linear(4, 5)

            def forward(self, images: Tensor) -> Tensor:
                count, early = images.size(0), self.first(images).relu()
                channels = early.shape[1]
                late = self.second(early).relu().mean(dim=(2, 3), keepdim=True)
                logits: Tensor = self.classifier(late.view(count, channels * early.size(0) // count))
                return logits

        body, graph = traced(filled(Viewed()))
        blocks = find_blocks(graph, body)
        assert len(blocks) == 3
        for count in (5, 3, 5):
            values = IMAGES[:count]
            for block in blocks:
                values = BlockRunner(body, block, IMAGES[:1])(values.clone())
            assert torch.allclose(values, body(IMAGES[:count]), atol=1e-5)

    def test_computes_what_lies_before_the_block_once_and_what_lies_behind_never(self) -> None:
        class Counter(nn.Module):
            count = 0

            def forward(self, values: Tensor) -> Tensor:
                self.count += 1
                return values

        body, _, blocks = ready("residual")
        counters = [Counter() for _ in range(4)]
        for name, counter in zip(("relu_/0", "relu/0", "relu/1", "relu/2"), counters, strict=True):
            put(body, "post", f"network/{name}", 0, counter)
        runner = BlockRunner(body, blocks[1], IMAGES[:1])
        for _ in range(3):
            runner(torch.rand(2, 4, 8, 8))
        assert [counter.count for counter in counters] == [3, 3, 0, 0]  # behind the entry is in the block
        runner = BlockRunner(body, blocks[2], IMAGES[:1])
        for _ in range(3):
            runner(torch.rand(2, 4, 8, 8))
        assert [counter.count for counter in counters] == [4, 4, 3, 3]

    def test_gradients_reach_the_input_and_the_weights_of_the_block_alone(self) -> None:
        body, _, blocks = ready("residual")
        values = torch.rand(2, 4, 8, 8, requires_grad=True)
        BlockRunner(body, blocks[1], IMAGES[:1])(values).sum().backward()
        assert values.grad is not None
        reached = [name for name, parameter in body.named_parameters() if parameter.grad is not None]
        assert {name.split(".")[1] for name in reached} == {"a1", "a2"}

    def test_a_block_that_is_not_there_is_an_error(self) -> None:
        body, _, _ = ready("residual")
        runner = BlockRunner(body, Block("network/relu/0", ("network/relu/9",), is_first=False), IMAGES[:1])
        with pytest.raises(UnsupportedModelError, match="ended before network/relu/9"):
            runner(torch.rand(1, 4, 8, 8))
