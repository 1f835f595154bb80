"""Vision transformers as torchvision and timm write them: attention is found, and images are made from it."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

import dfq_plugin as dfq
from dfq_plugin.attention import watch_attention
from dfq_plugin.teacher import read_facts

SIZE = 32


def make(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if name == "torchvision vit_b_32":
            return VisionTransformer(SIZE, 8, 2, 2, 16, 32, num_classes=5).eval()
        if name == "torchvision swin":
            return SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5).eval()
        network: Any = timm.create_model("deit_tiny_patch16_224", img_size=SIZE, depth=2).eval()
        for block in network.blocks:
            block.attn.fused_attn = name == "timm deit"
        return network


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("torchvision vit_b_32", [(2, 17, 16)] * 2),
        ("timm deit", [(2, 5, 192)] * 2),
        ("timm deit without fused attention", [(2, 5, 192)] * 2),
        ("torchvision swin", [(8, 16, 16)] * 2 + [(2, 16, 32)] * 2),  # windows of 4 by 4 patches
    ],
)
def test_attention_is_found_and_images_are_made(name: str, shapes: list[tuple[int, ...]]) -> None:
    network = make(name)
    with torch.no_grad(), watch_attention() as seen:
        network(torch.zeros(2, 3, SIZE, SIZE))
    assert [tuple(each.shape) for each in seen] == shapes
    assert read_facts(network, (3, SIZE, SIZE)).attention_operators == len(shapes)
    made = dfq.generate(
        network,
        provider="auto",
        input_shape=(3, SIZE, SIZE),
        num_samples=2,
        params={"steps": 3, "batch_size": 2},
        cache=False,
    )
    assert made.provenance.details["chosen"]["provider"] == "psaq"
    assert f"but {len(shapes)} self-attentions" in made.provenance.details["reason"]
    curves = made.provenance.details["chosen"]["details"]["curves"]["values"]
    assert set(curves) == {"patch_similarity", "classification", "total_variation"}


def test_images_for_a_transformer_calibrate_it() -> None:
    network = make("torchvision vit_b_32")
    made = dfq.generate(
        network, provider="psaq", input_shape=(3, SIZE, SIZE), num_samples=4, params={"steps": 2}, cache=False
    )
    student = dfq.quantize(network, made)
    assert student(made.images).shape == (4, 5)
