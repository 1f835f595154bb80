"""Run compound operators as the simple ones they are made of: these have integer kernels where the whole has none.

    silu(x)                          ->  x * sigmoid(x)
    scaled_dot_product_attention     ->  softmax(q k^T * scale + mask) v
    einsum of two tensors            ->  one matrix product
    nearest interpolation            ->  the operator underneath, a mere copying of values

The network's own code is not changed: a torch function mode answers these calls while the network runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from nncf.torch.function_hook.handle_inner_functions import get_handle_inner_function
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ELLIPSIS = "..."


class Decomposed(TorchFunctionMode):
    """While active, the operators above run as their parts; everything else runs as it is."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:  # its attention is called from within, so stay active inside
            inner = get_handle_inner_function(func)
            if inner is not None:
                with self:
                    return inner(*args, **kwargs)
        rule = _RULES.get(func)
        result = NotImplemented if rule is None else rule(*args, **kwargs)
        return func(*args, **kwargs) if result is NotImplemented else result


def _silu(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001, FBT001, FBT002 - torch's signature
    return input * torch.sigmoid(input)


def _attention(  # noqa: PLR0917 - torch's signature
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 - a student never drops anything
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> Any:  # noqa: ANN401
    if enable_gqa or (attn_mask is not None and attn_mask.dtype == torch.bool):
        return NotImplemented
    scores = torch.matmul(query, key.transpose(-2, -1)) * (scale or 1.0 / math.sqrt(query.shape[-1]))
    if is_causal:
        above = torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=scores.device).triu(diagonal=1)
        scores = scores + above
    if attn_mask is not None:
        scores = scores + attn_mask
    return torch.matmul(torch.softmax(scores, dim=-1), value)


def _einsum(equation: str, *operands: Any) -> Any:  # noqa: ANN401
    """Two operands that share leading axes, contract one and keep one each, as attention writes them."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    if len(tensors) != 2 or ELLIPSIS in equation or "->" not in equation:
        return NotImplemented
    terms, result = equation.replace(" ", "").split("->")
    left, right = terms.split(",")
    batch = [axis for axis in left if axis in right and axis in result]
    summed = [axis for axis in left if axis in right and axis not in result]
    rows, columns = ([axis for axis in term if axis not in other] for term, other in ((left, right), (right, left)))
    if len(summed) != 1 or len(rows) != 1 or len(columns) != 1 or sorted(result) != sorted([*batch, *rows, *columns]):
        return NotImplemented
    first = tensors[0].permute([left.index(axis) for axis in (*batch, *rows, *summed)])
    second = tensors[1].permute([right.index(axis) for axis in (*batch, *summed, *columns)])
    made = [*batch, *rows, *columns]
    return torch.matmul(first, second).permute([made.index(axis) for axis in result])


def _interpolate(  # noqa: PLR0917 - torch's signature
    input: Tensor,  # noqa: A002
    size: Any = None,  # noqa: ANN401
    scale_factor: Any = None,  # noqa: ANN401
    mode: str = "nearest",
    align_corners: bool | None = None,  # noqa: ARG001, FBT001
    recompute_scale_factor: bool | None = None,  # noqa: FBT001
    antialias: bool = False,  # noqa: ARG001, FBT001, FBT002
) -> Any:  # noqa: ANN401
    if mode != "nearest" or input.ndim != 4 or recompute_scale_factor:
        return NotImplemented
    sizes = None if size is None else [size, size] if isinstance(size, int) else list(size)
    factors = scale_factor if scale_factor is None or isinstance(scale_factor, list | tuple) else [scale_factor] * 2
    return torch._C._nn.upsample_nearest2d(input, sizes, factors)  # noqa: SLF001 - where F.interpolate ends


_RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.silu: _silu,
    F.scaled_dot_product_attention: _attention,
    torch.einsum: _einsum,
    torch.functional.einsum: _einsum,
    F.interpolate: _interpolate,
}
COMPOUND = frozenset({"silu", "silu_", "scaled_dot_product_attention", "einsum", "interpolate"})
