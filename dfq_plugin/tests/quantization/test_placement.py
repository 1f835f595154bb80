"""What is known of each placed quantizer, and which quantizers a product layer stands between."""

from __future__ import annotations

import pytest
import torch
from nncf.torch.function_hook import get_hook_storage
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph
from dfq_plugin.quantization.placement import (
    find_layers,
    find_sites,
    placed_quantizers,
    quantizer_of,
    remove_quantizers,
)
from dfq_plugin.student import ProductLayer, QuantizerSite
from dfq_plugin.tests.quantization.networks import Branches, put, symmetric, traced


@pytest.fixture
def placed() -> tuple[Body, OperatorGraph]:
    """The placement that NNCF chooses: the two parts of the concatenation share a quantizer."""
    body, graph = traced(Branches())
    for name in ("left", "right", "last"):
        put(body, "pre", f"network/{name}/conv2d/0", 1, symmetric(torch.ones(4, 1, 1, 1)))
    put(body, "pre", "network/fc/linear/0", 1, symmetric(torch.ones(5, 1)))
    put(body, "post", "images", 0, symmetric())
    shared = symmetric(signed=False)
    put(body, "post", "network/relu/0", 0, shared)
    put(body, "post", "network/relu/1", 0, shared)
    put(body, "post", "network/relu/2", 0, symmetric(signed=False))
    put(body, "post", "network/mean/0", 0, symmetric(signed=False))
    return body, graph


def sites_of(body: Body, graph: OperatorGraph) -> dict[str, QuantizerSite]:
    sites = find_sites(placed_quantizers(body), graph)
    return {f"{site.kind} {site.layer}": site for site in sites}


def layers_of(body: Body, graph: OperatorGraph) -> dict[str, ProductLayer]:
    hooks = placed_quantizers(body)
    return {layer.operator: layer for layer in find_layers(hooks, find_sites(hooks, graph), graph)}


def test_a_weight_is_read_by_its_own_layer(placed: tuple[Body, OperatorGraph]) -> None:
    site = sites_of(*placed)["weight fc/linear/0"]
    assert site == QuantizerSite(
        "pre_hooks.network/fc/linear/0__1.0", "weight", "fc/linear/0", ("fc/linear/0",), multiplied=True
    )


def test_the_image_is_known_as_the_networks_input(placed: tuple[Body, OperatorGraph]) -> None:
    sites = sites_of(*placed)
    assert [key for key, site in sites.items() if site.is_input] == ["activation images"]
    assert sites["activation images"].readers == ("left/conv2d/0", "right/conv2d/0")
    assert sites["activation images"].multiplied


def test_a_quantizer_in_two_places_is_one_site_that_names_both(placed: tuple[Body, OperatorGraph]) -> None:
    site = sites_of(*placed)["activation /relu/0"]
    assert site.others == ("/relu/1",)
    assert site.readers == ("last/conv2d/0",)
    assert site.multiplied
    assert "activation /relu/1" not in sites_of(*placed)


def test_a_quantizer_of_the_image_and_of_something_else_is_not_the_networks_input() -> None:
    body, graph = traced(Branches())
    shared = symmetric()
    put(body, "post", "images", 0, shared)
    put(body, "post", "network/relu/0", 0, shared)
    site = sites_of(body, graph)["activation images"]
    assert not site.is_input
    assert site.readers == ("left/conv2d/0", "right/conv2d/0", "last/conv2d/0")


def test_a_tensor_that_only_a_mean_reads_is_not_multiplied(placed: tuple[Body, OperatorGraph]) -> None:
    site = sites_of(*placed)["activation /relu/2"]
    assert site.readers == ("/mean/0",)
    assert not site.multiplied


def test_layers_come_in_order_of_execution_with_both_quantizers(placed: tuple[Body, OperatorGraph]) -> None:
    layers = layers_of(*placed)
    assert list(layers) == ["left/conv2d/0", "right/conv2d/0", "last/conv2d/0", "fc/linear/0"]
    assert layers["last/conv2d/0"] == ProductLayer(
        "last/conv2d/0",
        "network.last.weight",
        "network.last.bias",
        "pre_hooks.network/last/conv2d/0__1.0",
        "post_hooks.network/relu/0__0.0",  # through the concatenation and the pooling
    )
    assert layers["left/conv2d/0"].input_quantizer == "post_hooks.images__0.0"


def test_a_concatenation_of_differently_quantized_parts_has_no_grid() -> None:
    body, graph = traced(Branches())
    put(body, "post", "network/relu/0", 0, symmetric(signed=False))
    put(body, "post", "network/relu/1", 0, symmetric(signed=False))
    assert layers_of(body, graph)["last/conv2d/0"].input_quantizer is None


def test_layers_without_quantizers_are_listed_as_float() -> None:
    layers = layers_of(*traced(Branches()))
    assert {(layer.weight_quantizer, layer.input_quantizer) for layer in layers.values()} == {(None, None)}


def test_a_quantizer_in_front_of_its_reader_wins_over_one_behind_the_source() -> None:
    body, graph = traced(Branches())
    put(body, "pre", "network/left/conv2d/0", 0, symmetric())
    put(body, "post", "images", 0, symmetric())
    layers, sites = layers_of(body, graph), sites_of(body, graph)
    assert layers["left/conv2d/0"].input_quantizer == "pre_hooks.network/left/conv2d/0__0.0"
    assert layers["right/conv2d/0"].input_quantizer == "post_hooks.images__0.0"
    assert sites["activation left/conv2d/0"].is_input  # it quantizes the image as well
    assert sites["activation left/conv2d/0"].readers == ("left/conv2d/0",)


def test_a_product_of_two_activations_is_no_layer() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 8, bias=False)

        def forward(self, pixels: Tensor) -> Tensor:
            mixed = self.fc(pixels)
            return F.relu(mixed @ mixed.transpose(2, 3))

    layers = layers_of(*traced(Attention()))
    assert list(layers) == ["fc/linear/0"]
    assert layers["fc/linear/0"].bias is None


def test_remove_quantizers_takes_them_out(placed: tuple[Body, OperatorGraph]) -> None:
    body, graph = placed
    quantizer = quantizer_of(body, "post_hooks.images__0.0")
    assert any(module is quantizer for module in get_hook_storage(body).modules())
    remove_quantizers(body, ["post_hooks.images__0.0"])
    assert not any(module is quantizer for module in get_hook_storage(body).modules())
    assert layers_of(body, graph)["left/conv2d/0"].input_quantizer is None
