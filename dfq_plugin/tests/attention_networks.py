"""A small vision transformer whose attention is written in each of the usual ways."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.synthesis.generators import initialised

Style = Literal["module", "fused", "softmax", "merged"]
STYLES: tuple[Style, ...] = ("module", "fused", "softmax", "merged")
WIDTH, HEADS, PATCH = 8, 2, 2


class Attention(nn.Module):
    """Self-attention: one call of torch's function, a softmax between two products, or that without a projection."""

    def __init__(self, style: Style) -> None:
        super().__init__()
        self.style = style
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Identity() if style == "merged" else nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        count = tokens.shape[1]
        query, key, value = self.qkv(tokens).reshape(-1, count, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        if self.style == "fused":
            heads = F.scaled_dot_product_attention(query, key, value)
        else:
            weights = (query @ key.transpose(-2, -1) / (WIDTH // HEADS) ** 0.5).softmax(dim=-1)
            heads = F.dropout(weights, 0.1, self.training) @ value
        output: Tensor = self.proj(heads.transpose(1, 2).reshape(-1, count, WIDTH))
        return output


class ModuleAttention(nn.Module):
    """Self-attention by ``nn.MultiheadAttention``."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return output


class TinyTransformer(nn.Module):
    """Patches of 2x2 pixels, attentions with a residual each, and a classifier on the average."""

    def __init__(self, style: Style, depth: int, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(depth))
        self.attentions = nn.ModuleList(
            ModuleAttention() if style == "module" else Attention(style) for _ in range(depth)
        )
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        for norm, attention in zip(self.norms, self.attentions, strict=True):
            tokens = tokens + attention(norm(tokens))
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits


def tiny_transformer(style: Style = "fused", depth: int = 2, num_classes: int = 4) -> TinyTransformer:
    """Make a small transformer in eval mode, the same one every time."""
    network = initialised(lambda: TinyTransformer(style, depth, num_classes), torch.Generator().manual_seed(5))
    return network.eval()
