"""Compound operators run as their parts and give what the whole gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dfq_plugin.quantization.decompose import COMPOUND, Decomposed


class Recorder(TorchFunctionMode):
    """Notes the name of every function that reaches it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN204
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def values(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


MASK = torch.triu(torch.full((5, 5), -3.0), diagonal=1)
HEADS = values(2, 3, 5, 4)
DECOMPOSED: dict[str, tuple[Callable[[], Tensor], str]] = {
    "silu": (lambda: F.silu(values(2, 3)), "sigmoid"),
    "attention": (lambda: F.scaled_dot_product_attention(HEADS, HEADS + 1, HEADS * 2), "matmul"),
    "masked_attention": (lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS, MASK), "matmul"),
    "causal_attention": (lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS, is_causal=True), "matmul"),
    "scaled_attention": (lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS, scale=0.3), "matmul"),
    "einsum_of_rows": (lambda: torch.einsum("b h i d, b h j d -> b h i j", HEADS, HEADS + 1), "matmul"),
    "einsum_of_columns": (lambda: torch.einsum("bhij,bhjd->bihd", values(2, 3, 5, 5), HEADS), "matmul"),
    "nearest": (lambda: F.interpolate(values(1, 2, 3, 3), scale_factor=2), "upsample_nearest2d"),
    "nearest_to_size": (lambda: F.interpolate(values(1, 2, 3, 3), size=(5, 7)), "upsample_nearest2d"),
}
WHOLE: dict[str, Callable[[], Tensor]] = {
    "bilinear": lambda: F.interpolate(values(1, 2, 3, 3), scale_factor=2, mode="bilinear"),
    "attention_with_a_boolean_mask": lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS, MASK > -1),
    "einsum_that_sums_two_axes": lambda: torch.einsum("abc,bcd->ad", values(2, 3, 4), values(3, 4, 5)),
    "einsum_of_a_diagonal": lambda: torch.einsum("ii->i", values(3, 3)),
    "einsum_with_an_ellipsis": lambda: torch.einsum("...ij,...jk->...ik", HEADS, values(2, 3, 4, 5)),
}


@pytest.mark.parametrize(("run", "part"), DECOMPOSED.values(), ids=DECOMPOSED.keys())
def test_parts_give_what_the_whole_gives(run: Callable[[], Tensor], part: str) -> None:
    whole = run()
    with Recorder() as seen, Decomposed():
        parts = run()
    assert torch.allclose(parts, whole, atol=1e-6)
    assert part in seen.names
    assert not COMPOUND & set(seen.names)


@pytest.mark.parametrize("run", WHOLE.values(), ids=WHOLE.keys())
def test_what_has_no_integer_parts_stays_whole(run: Callable[[], Tensor]) -> None:
    whole = run()
    with Recorder() as seen, Decomposed():
        again = run()
    assert torch.equal(again, whole)
    assert COMPOUND & set(seen.names)


def test_attention_inside_a_module_is_decomposed_too() -> None:
    module = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = values(2, 5, 8)
    with torch.no_grad():
        whole = module(tokens, tokens, tokens, need_weights=False)[0]
        with Recorder() as seen, Decomposed():
            parts = module(tokens, tokens, tokens, need_weights=False)[0]
    assert torch.allclose(parts, whole, atol=1e-6)
    assert seen.names.count("matmul") == 2
    assert "scaled_dot_product_attention" not in seen.names
