"""What only moves numbers runs on codes, between products on integer kernels, and changes no bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from integration_tests.graphs import Graph
from integration_tests.rounding import Layer, Network, activation, check, export, images, run

Move = Callable[[Tensor], Tensor]
SHAPE = (3, 8, 8)


def shuffle(values: Tensor) -> Tensor:
    """The channel shuffle of ShuffleNet."""
    count, channels, height, width = values.shape
    return values.view(count, 2, channels // 2, height, width).transpose(1, 2).reshape(count, -1, height, width)


def swap_halves(values: Tensor) -> Tensor:
    left, right = values.chunk(2, dim=1)
    return torch.cat([right, left], dim=1)


def merge_patches(values: Tensor) -> Tensor:
    """The patch merging of Swin."""
    corners = [values[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
    return torch.cat(corners, dim=1)


def windows(values: Tensor) -> Tensor:
    return values.view(-1, 8, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 8, 4, 4)


MOVES: dict[str, tuple[Move, str]] = {
    "channel shuffle": (shuffle, "Transpose"),
    "swapped halves": (swap_halves, "Split"),
    "uneven split": (lambda v: torch.cat(torch.split(v, [3, 5], dim=1)[::-1], dim=1), "Split"),
    "roll": (lambda v: torch.roll(v, (-3, 2), (2, 3)), "Concat"),
    "patch merging": (merge_patches, "Slice"),
    "window partition": (windows, "Reshape"),
    "one row": (lambda v: v[:, :, 0].unsqueeze(2), "Gather"),
    "chosen channels": (lambda v: v[:, [0, 3, 2, 7, 1, 1, 4, 5]], "GatherND"),
    "pixel shuffle": (lambda v: F.pixel_shuffle(v, 2), "DepthToSpace"),
    "pixel unshuffle": (lambda v: F.pixel_unshuffle(v, 2), "Reshape"),
    "nearest, twice as large": (lambda v: F.interpolate(v, scale_factor=2, mode="nearest"), "Resize"),
    "nearest, of a size": (lambda v: F.interpolate(v, size=(13, 5), mode="nearest"), "Resize"),
    "repeated": (lambda v: v.repeat(1, 2, 1, 1), "Tile"),
    "expanded": (lambda v: v[:, :, :1].expand(-1, -1, 5, -1), "Expand"),
    "flipped": (lambda v: v.flip(2, 3), "Slice"),
    "reflected": (lambda v: F.pad(v, (1, 2, 2, 1), mode="reflect"), "Pad"),
    "replicated": (lambda v: F.pad(v, (1, 2, 2, 1), mode="replicate"), "Pad"),
    "wrapped around": (lambda v: F.pad(v, (1, 2, 0, 1), mode="circular"), "Concat"),
    "channels padded": (lambda v: F.pad(v, (0, 0, 0, 0, 2, 1)), "Pad"),
    "cropped": (lambda v: F.pad(v, (-1, -1, 0, -2)), "Pad"),
    "channels of zeros": (lambda v: torch.cat([v, torch.zeros_like(v)], dim=1), "Concat"),
    "largest of all": (lambda v: v.amax((2, 3), keepdim=True), "ReduceMax"),
    "largest in windows that hang over": (lambda v: F.max_pool2d(v, 3, 2, ceil_mode=True), "NhwcMaxPool"),
    "stacked": (lambda v: torch.stack([v, v], dim=2).flatten(1, 2), "Concat"),
}


@pytest.mark.parametrize("name", MOVES)
def test_codes_are_moved_between_two_convolutions(name: str, tmp_path: Path) -> None:
    move, op_type = MOVES[name]
    channels = move(torch.zeros(1, 8, 8, 8)).shape[1]

    def forward(net: nn.Module, values: Tensor) -> Tensor:
        low: Tensor = net.quantized(F.relu(net.first(net.images(values))))
        return net.result(net.second(move(low)))

    network = Network(
        forward,
        images=activation(1 / 16, 128),
        first=Layer(nn.Conv2d(3, 8, 3, padding=1)),
        quantized=activation(1 / 4, 64),
        second=Layer(nn.Conv2d(channels, 4, 1), input_step=1 / 4, seed=5),
        result=activation(1 / 2, 128),
    )
    found = check(network, SHAPE, tmp_path / "model.onnx")
    assert found["QLinearConv"] == 2
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)  # the images and the result
    assert found[op_type] > 0


@pytest.mark.parametrize("name", ["channel shuffle", "pixel shuffle", "reflected", "largest of all", "one row"])
def test_quantizer_behind_a_movement_stands_on_the_convolution(name: str, tmp_path: Path) -> None:
    move, _ = MOVES[name]
    network = Network(
        lambda net, values: net.result(F.relu(move(net.conv(net.images(values))))),
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 8, 3, padding=1)),
        result=activation(1 / 8, 64),
    )
    assert check(network, SHAPE, tmp_path / "model.onnx")["QLinearConv"] == 1


def equal(network: Network, path: Path) -> Graph:
    """Export and compare bit by bit, whatever runs in float."""
    values = images(*SHAPE)
    graph = Graph(export(network, SHAPE, path))
    with torch.no_grad():
        assert torch.equal(run(path, values), network(values))
    return graph


def test_limit_that_would_change_the_zeros_of_a_pad_is_not_moved_past_it(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.result(F.hardtanh(F.pad(net.conv(net.images(values)), (1, 0)), 0.5, 2.0)),
        images=activation(1 / 16, 128),
        conv=Layer(nn.Conv2d(3, 8, 3)),
        result=activation(1 / 8, 0),
    )
    equal(network, tmp_path / "model.onnx")


def test_parts_off_the_grid_of_the_others_keep_their_values(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: torch.cat([net.images(values), torch.full_like(values[:, :1], 0.3)], dim=1),
        images=activation(1 / 16, 128),
    )
    equal(network, tmp_path / "model.onnx")


def test_resize_that_computes_new_numbers_reads_floats(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: F.interpolate(net.images(values), scale_factor=2, mode="bilinear"),
        images=activation(1 / 16, 128),
    )
    graph = equal(network, tmp_path / "model.onnx")
    (resize,) = graph.of_type("Resize")
    assert graph.dequantizer(resize, 0).op_type == "DequantizeLinear"


def test_second_grid_behind_a_movement_stays_behind_it(tmp_path: Path) -> None:
    network = Network(
        lambda net, values: net.second(F.max_pool2d(net.images(values), 2)),
        images=activation(1 / 16, 128),
        second=activation(1 / 4, 100),
    )
    graph = equal(network, tmp_path / "model.onnx")
    assert [node.op_type for node in graph.nodes] == [
        *("QuantizeLinear", "MaxPool", "DequantizeLinear", "QuantizeLinear", "DequantizeLinear")
    ]


def test_class_token_and_patches_become_one_sequence_of_codes(tmp_path: Path) -> None:
    token = torch.tensor([0.5, -1.25, 3.0, 0.0]).reshape(1, 1, 4)

    def forward(net: nn.Module, values: Tensor) -> Tensor:
        patches = net.patches(net.embed(net.images(values))).flatten(2).transpose(1, 2)
        first = net.token(token.expand(values.shape[0], -1, -1))
        return net.fc(torch.cat([first, patches], dim=1)[:, 0])

    quantizer = activation(1 / 4, 128)
    network = Network(
        forward,
        images=activation(1 / 16, 128),
        embed=Layer(nn.Conv2d(3, 4, 4, stride=4)),
        patches=quantizer,
        token=quantizer,
        fc=Layer(nn.Linear(4, 5), input_step=1 / 4),
    )
    found = check(network, SHAPE, tmp_path / "model.onnx")
    assert (found["QLinearConv"], found["QGemm"], found["QuantizeLinear"]) == (1, 1, 1)
