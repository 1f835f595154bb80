"""Attention is found by what a network runs, however it is written, and what it gives is the paper's output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.attention import watch_attention
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.tests.attention_networks import STYLES, Style, tiny_transformer

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs_of_modules(network: nn.Module) -> list[Tensor]:
    """What the attention modules give, told by hooks on them."""
    found: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        for module in network.get_submodule("attentions").children()
    ]
    network(IMAGES)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("style", STYLES)
def test_outputs_are_those_of_the_attention_modules(style: Style, gradients: bool) -> None:
    network = tiny_transformer(style)
    with torch.set_grad_enabled(gradients):
        with watch_attention() as seen:
            network(IMAGES)
        expected = outputs_of_modules(network)
    assert [tuple(each.shape) for each in seen] == [(2, 16, 8)] * 2
    for found, wanted in zip(seen, expected, strict=True):
        assert torch.allclose(found, wanted, atol=1e-6)
        assert found.requires_grad == gradients


@pytest.mark.parametrize("style", STYLES)
def test_network_computes_the_same_while_watched(style: Style) -> None:
    network = tiny_transformer(style)
    with watch_attention():
        watched = network(IMAGES)
    assert torch.equal(watched, network(IMAGES))


def test_gradients_reach_the_images() -> None:
    images = IMAGES.clone().requires_grad_()
    with watch_attention() as seen:
        tiny_transformer()(images)
    (gradient,) = torch.autograd.grad(seen[-1].sum(), images)
    assert gradient.abs().sum() > 0


def test_encoder_layers_of_torch_are_found() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    with torch.no_grad(), watch_attention() as seen:
        encoder(torch.randn(2, 5, 8))
    assert [tuple(each.shape) for each in seen] == [(2, 5, 8)] * 3


def test_windows_are_counted_as_images() -> None:
    windows = torch.randn(2 * 4, 2, 9, 4)  # 2 images of 4 windows, 2 heads, 9 tokens
    with watch_attention() as seen:
        F.scaled_dot_product_attention(windows, windows, windows)
    assert [tuple(each.shape) for each in seen] == [(8, 9, 8)]


def test_a_convolution_behind_the_heads_is_not_taken_for_their_projection() -> None:
    heads = torch.randn(2, 2, 4, 4)
    with watch_attention() as seen:
        mixed = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(2, 4, 8)
        F.linear(F.conv1d(mixed, torch.eye(4).unsqueeze(2)), torch.zeros(8, 8))
    assert len(seen) == 1
    assert torch.equal(seen[0], mixed)


def test_pooling_by_attention_is_left_out() -> None:
    query, tokens = torch.randn(2, 2, 1, 4), torch.randn(2, 2, 9, 4)
    with watch_attention() as seen:
        F.scaled_dot_product_attention(query, tokens, tokens)
    assert seen == []


def test_what_is_no_attention_is_not_found() -> None:
    with watch_attention() as seen:
        tiny_teacher()(IMAGES)
        images = torch.randn(2, 3, 4, 4)
        images.softmax(dim=1) @ images  # over channels: no attention
        images.sigmoid() @ images
        images[0, 0].softmax(dim=-1) @ images[0, 0]  # of a matrix: class probabilities
    assert seen == []
