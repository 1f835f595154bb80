"""Execution of a hooked network operator by operator, under the names that NNCF gives them.

NNCF runs a network inside a torch function mode that names every operator and calls the quantizers around it. The mode
here is the same one with a place to step in: a subclass says what executing an operator means.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nncf.torch.function_hook import get_hook_storage
from nncf.torch.function_hook.handle_inner_functions import get_handle_inner_function
from nncf.torch.function_hook.hook_executor_mode import IGNORED_FN_NAMES, FunctionHookMode, OpMeta
from torch import Tensor, nn


class OperatorMode(FunctionHookMode):  # type: ignore[misc]  # NNCF ships no types
    """Hands every operator of a network to ``execute``; what quantizers themselves call is no operator."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, get_hook_storage(network))
        self._network = network

    def run(self, images: Tensor) -> Tensor:
        """Run the network on ``images``, (N, C, H, W)."""
        with self:
            inputs, _ = self.process_model_inputs((images,), {})
            output: Tensor = self._network.forward.orig_forward(*inputs)  # type: ignore[attr-defined]  # NNCF's wrapper
        return output

    @abstractmethod
    def execute(self, operator: OpMeta, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Give the result of one operator, ``operator.op_name``, for its operands as the network hands them over."""

    def quantize_operands(
        self, operator: OpMeta, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The operands behind the quantizers that stand in front of an operator."""
        with self.disable():
            operands: tuple[tuple[Any, ...], dict[str, Any]] = self.execute_pre_hooks(args, kwargs, operator)
        return operands

    def quantize_result(self, operator: OpMeta, result: Any) -> Any:  # noqa: ANN401
        """The result behind the quantizers that stand behind an operator."""
        with self.disable():
            return self.execute_post_hooks(result, operator)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: list[type[Any]],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        is_no_operator = not self.enabled or func.__name__ in IGNORED_FN_NAMES
        if is_no_operator or get_handle_inner_function(func) is not None:
            return super().__torch_function__(func, types, args, kwargs)
        return self.execute(OpMeta(self.get_next_op_call_name(func.__name__), func), args, kwargs or {})


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor that is no parameter, lists and tuples looked into."""
    for value in values:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
