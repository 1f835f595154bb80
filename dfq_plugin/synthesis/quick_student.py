"""A quantized copy of the teacher that is made in a moment, for methods that make images against a student.

It is the quantizer that the papers of the GDFQ family share (GDFQ, arXiv:2003.03603; ZeroQ's grid): weights per output
channel between their minimum and maximum, derived anew in every forward pass; activations per tensor after every
ReLU-type function and nowhere else; BatchNorm unfolded, in eval mode; gradients straight through. NNCF is not involved,
so that a provider needs no calibration set to have one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from dfq_plugin.errors import InputError
from dfq_plugin.extremes import MovingExtremes
from dfq_plugin.teacher import ModelFacts

WEIGHTED = frozenset({F.conv1d, F.conv2d, F.conv3d, F.linear})
RELU_TYPE = frozenset(
    {
        *(F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
        *(F.relu6, F.hardtanh, F.hardtanh_, F.hardswish, F.leaky_relu, F.leaky_relu_, F.prelu, torch.prelu),
        *(F.elu, F.elu_, F.gelu, F.silu, F.mish),
    }
)
MIN_RANGE = 1e-8
BATCH = 32  # images a calibration batch


class QuickStudent(nn.Module):
    """A fake-quantized copy of a network; ``student(images)`` gives logits, (N, classes).

    Gradients reach the images; call ``requires_grad_()`` to train the weights as well.

    Args:
        network: copied, left as it is. Hooks on it would be copied too, so tap it afterwards.
        bits: of weights and activations.

    Attributes:
        calibrating: while True, every forward pass moves the activation ranges before it uses them.
    """

    def __init__(self, network: nn.Module, bits: int) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self.bits = bits
        self.calibrating = False
        self.ranges: list[MovingExtremes] = []  # of the ReLU-type functions in the order in which they run

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``, (N, C, H, W) in the teacher's normalised input space."""
        with _Quantize(self):
            logits: Tensor = self.network(images)
        return logits

    def get_extra_state(self) -> Tensor:
        """The activation ranges for ``state_dict``, (ranges, 3) float64."""
        return torch.tensor([seen.state for seen in self.ranges], dtype=torch.float64).reshape(-1, 3)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the activation ranges from a ``state_dict``."""
        self.ranges = [MovingExtremes(*row) for row in state.tolist()]


def quick_student(teacher: nn.Module, facts: ModelFacts, bits: int, images: Tensor) -> QuickStudent:
    """Make a quantized copy of a teacher and calibrate its activation ranges.

    Args:
        teacher: The float network; left as it is.
        facts: Its facts.
        bits: Of weights and activations.
        images: (N, C, H, W), what the activation ranges are read from, in batches of 32.

    Raises:
        InputError: The images do not fit the teacher.
    """
    if images.shape[1:] != facts.input_shape or not len(images):
        wanted = ", ".join(map(str, facts.input_shape))
        msg = f"A student of this teacher is calibrated on images (N, {wanted}), got {tuple(images.shape)}."
        raise InputError(msg)
    student = QuickStudent(teacher, bits)
    like = next(teacher.parameters())
    student.calibrating = True
    with torch.no_grad():
        for batch in images.split(BATCH):
            student(batch.to(like))
    student.calibrating = False
    return student


def fake_quantize(values: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Round to an asymmetric grid of ``2^bits`` codes; gradients pass straight through, outside of the range as well.

    Args:
        values: Any shape.
        low: Smallest value to represent, of a shape that broadcasts with ``values``.
        high: Largest value to represent, likewise.
        bits: Number of bits.
    """
    half = 2 ** (bits - 1)
    scale = (2**bits - 1) / (high - low).clamp(min=MIN_RANGE)
    zero = (scale * low).round() + half
    codes = (scale * values.detach() - zero).round().clamp(-half, half - 1)
    rounded: Tensor = _StraightThrough.apply(values, (codes + zero) / scale)
    return rounded


def quantize_weight(weight: Tensor, bits: int) -> Tensor:
    """Round each output channel, the first axis, to the grid between its own minimum and maximum."""
    rows = weight.detach().flatten(1)
    shape = (-1, *[1] * (weight.ndim - 1))
    return fake_quantize(weight, rows.amin(dim=1).view(shape), rows.amax(dim=1).view(shape), bits)


class _StraightThrough(torch.autograd.Function):
    """Give the second tensor, and hand its gradient to the first; adding a difference instead would leave the grid."""

    @staticmethod
    def forward(_ctx: Any, _values: Tensor, rounded: Tensor) -> Tensor:  # noqa: ANN401 - autograd's own interface
        return rounded

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradient, None


class _Quantize(TorchFunctionMode):
    """Stands between a network and torch for one forward pass, so that modules and plain functions are seen alike."""

    def __init__(self, student: QuickStudent) -> None:
        super().__init__()
        self._student = student
        self._place = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function gives
        named = dict(kwargs or {})
        if func in WEIGHTED:
            if "weight" in named:
                named["weight"] = quantize_weight(named["weight"], self._student.bits)
            else:
                args = (args[0], quantize_weight(args[1], self._student.bits), *args[2:])
        result = func(*args, **named)
        return self._quantize_activation(result) if func in RELU_TYPE else result

    def _quantize_activation(self, values: Tensor) -> Tensor:
        student = self._student
        first_time = self._place == len(student.ranges)
        if first_time:
            student.ranges.append(MovingExtremes())
        seen = student.ranges[self._place]
        self._place += 1
        if student.calibrating or first_time:
            seen.update(values)
        low, high = values.new_tensor(seen.low), values.new_tensor(seen.high)
        return fake_quantize(values, low, high, student.bits)
