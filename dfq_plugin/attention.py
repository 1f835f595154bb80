"""What the attention operators of a network give, found while it runs and not by the names of its classes.

Attention is written in many ways; three of them cover what networks are made of:
    torch.nn.functional.scaled_dot_product_attention
    torch.nn.functional.multi_head_attention_forward, inside of ``torch.nn.MultiheadAttention``
    a softmax over the last axis whose result is the left operand of a matrix product
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SOFTMAX = frozenset({F.softmax, torch.softmax, Tensor.softmax})
_PRODUCT = frozenset({torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__})
# What no projection of the heads comes after: it would be another layer's.
_BEYOND = frozenset(
    {F.conv1d, F.conv2d, F.layer_norm, F.batch_norm, torch.add, Tensor.add, Tensor.__add__, Tensor.__iadd__}
)
FEWEST_TOKENS = 2  # a single one, as of a pooling by attention, is similar to nothing


@contextmanager
def watch_attention() -> Iterator[list[Tensor]]:
    """Watch what runs inside, one forward pass of a network.

    For example::

        with watch_attention() as seen:
            logits = network(images)

    Yields:
        A list that is complete when the block has ended: the output of every attention operator over at least two
        tokens, (N, tokens, channels), in order of execution, with gradients. It is taken behind the linear layer that
        reads the heads, where that follows at once; else the heads are laid side by side. Where attention looks
        through windows, N counts the windows of all images.
    """
    watch = _Watch()
    with watch:
        yield watch.outputs
    watch.settle()


class _Watch(TorchFunctionMode):
    """Looks at every call of a torch function, and changes none."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        self._weights: Tensor | None = None  # the latest softmax
        self._heads: Tensor | None = None  # (N, heads, tokens, channels), what the next linear layer may read

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if func is F.multi_head_attention_forward:  # its parts run unseen; (tokens, N, channels)
            self.settle()
            self._keep(result[0].transpose(0, 1) if result[0].ndim == 3 else result[0].unsqueeze(0))
        elif func is F.scaled_dot_product_attention:
            self._found(result)
        elif func in _SOFTMAX:
            last = isinstance(result, Tensor) and result.ndim > 2 and _axis(args, kwargs) in {-1, result.ndim - 1}
            self._weights = result if last else None
        elif func in _PRODUCT and self._is_weights(args[0]):
            self._weights = None
            self._found(result)
        elif func is F.linear and self._heads is not None:
            self._project(args[0], result)
        elif func in _BEYOND:
            self.settle()
        return result

    def settle(self) -> None:
        """Take the heads as they are: nothing has read them at once."""
        heads, self._heads = self._heads, None
        if heads is not None:
            self._keep(_merge(heads))

    def _found(self, heads: Tensor) -> None:
        self.settle()
        self._heads = heads

    def _project(self, read: Tensor, result: Tensor) -> None:
        heads = self._heads
        if heads is not None and read.numel() == heads.numel() and result.shape[-2:-1] == heads.shape[-2:-1]:
            self._heads = None
            self._keep(result.reshape(-1, *result.shape[-2:]))
        self.settle()

    def _keep(self, output: Tensor) -> None:
        if output.shape[-2] >= FEWEST_TOKENS:
            self.outputs.append(output)

    def _is_weights(self, operand: object) -> bool:
        """Whether a tensor is the latest softmax, perhaps after dropout or in another shape."""
        weights = self._weights
        if weights is None or not isinstance(operand, Tensor) or operand.ndim < 3:
            return False
        return operand.numel() == weights.numel() and operand.shape[-1] == weights.shape[-1]


def _axis(args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> object:
    return (kwargs or {}).get("dim", args[1] if len(args) > 1 else None)


def _merge(heads: Tensor) -> Tensor:
    """(..., heads, tokens, channels) as (N, tokens, heads * channels); three axes are one head."""
    if heads.ndim == 3:
        return heads
    return heads.transpose(-3, -2).reshape(-1, heads.shape[-2], heads.shape[-3] * heads.shape[-1])
