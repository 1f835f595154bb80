"""The student: a quantized copy of the teacher, with NNCF quantizers inside and a plan that says their bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dfq_plugin.errors import ExportError

HOOKS = "__nncf_hooks"  # the submodule in which NNCF keeps its quantizers
MAX_BIAS_CODE = 2**28  # leaves the int32 accumulator room for the products

MIN_STEP = 1e-15  # NNCF adds 1e-16 to a range of zero, which would pass for a step


@dataclass(frozen=True)
class QuantizerSite:
    """Where one quantizer stands.

    Attributes:
        name: NNCF's name of the hook that holds it, unique in the student.
        kind: what it quantizes.
        layer: the operator whose weight it quantizes, or whose output (activations; its input where the name of the
            hook begins with ``pre_hooks``).
        readers: the operators that read the quantized tensor, rearranging operators looked through.
        multiplied: whether a convolution or matrix product reads it.
        is_input: whether it quantizes the network's input and nothing else.
        others: further operators at which the same quantizer stands, since NNCF gives the parts of a concatenation one.
    """

    name: str
    kind: Literal["weight", "activation"]
    layer: str
    readers: tuple[str, ...]
    multiplied: bool
    is_input: bool = False
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class BitAssignment:
    """Which quantizer has how many bits, and why."""

    name: str
    kind: Literal["weight", "activation"]
    layer: str
    requested: int
    applied: int
    reason: str


@dataclass(frozen=True)
class ProductLayer:
    """A layer with weights: names of its parameters and of the quantizers on its two operands (None: float)."""

    operator: str
    weight: str
    bias: str | None
    weight_quantizer: str | None
    input_quantizer: str | None


@dataclass(frozen=True)
class Grid:
    """The integer grid of one quantizer: ``value = step * (code - zero_point)`` with ``low <= code <= high``.

    Attributes:
        step: () or (channels,), float32.
        zero_point: () or (channels,), int64.
        low: smallest code.
        high: largest code.
        axis: channel axis of per-channel steps, None for one step per tensor.
    """

    step: Tensor
    zero_point: Tensor
    low: int
    high: int
    axis: int | None


class Student(nn.Module):
    """A quantized network that behaves like any ``nn.Module``; ``student(images)`` gives logits, (N, classes)."""

    def __init__(
        self,
        network: nn.Module,
        input_shape: tuple[int, int, int],
        sites: tuple[QuantizerSite, ...],
        layers: tuple[ProductLayer, ...],
        plan: tuple[BitAssignment, ...],
    ) -> None:
        super().__init__()
        self.network = network
        self.input_shape = input_shape
        self.sites = sites
        self.layers = layers
        self.plan = plan
        self.calibrated_on: dict[str, str] = {}  # where its synthetic set comes from; empty when nobody has said
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``, (N, C, H, W) in the teacher's normalised input space."""
        return self.network(images)  # type: ignore[no-any-return]

    def quantizer(self, name: str) -> Any:  # noqa: ANN401 - an NNCF quantizer: NNCF ships no types
        """The NNCF quantizer module at the site of that name."""
        return self.network.get_submodule(f"{HOOKS}.{name}")

    def quantizers(self) -> Iterator[tuple[QuantizerSite, Any]]:
        """Every site with its NNCF quantizer."""
        for site in self.sites:
            yield site, self.quantizer(site.name)

    def replace_quantizer(self, name: str, module: nn.Module) -> None:
        """Put another module in the quantizer's place, in all of them where it has several; the exporter does so."""
        quantizer = self.quantizer(name)
        for path, child in list(self.network.named_modules(remove_duplicate=False)):
            if child is quantizer:
                self.network.set_submodule(path, module)

    def grid(self, site: QuantizerSite) -> Grid:
        """The integer grid the quantizer at that site rounds to.

        Raises:
            ExportError: a step is zero, infinite or not a number.
        """
        return _read_grid(self.quantizer(site.name), site)

    def site(self, name: str) -> QuantizerSite:
        """The site of that name."""
        return next(site for site in self.sites if site.name == name)

    def unshared_layers(self) -> list[ProductLayer]:
        """The layers with a quantized weight that no other layer has."""
        uses = Counter(layer.weight for layer in self.layers)
        return [layer for layer in self.layers if layer.weight_quantizer is not None and uses[layer.weight] == 1]

    @torch.no_grad()
    def snap_biases(self) -> None:
        """Round every bias to the grid of its integer accumulator, input step x weight step.

        Integer kernels hold the bias on that grid; a student with float biases would differ from its own export by up
        to several percent of its codes. Steps of channels so small that the bias would not fit are raised first:
        such weights are dead and stay zero. A bias that several products add has no one grid and stays as it is; so
        do those of weights with zero points, which no integer kernel takes.
        """
        uses = Counter(layer.bias for layer in self.layers)
        for layer in self.layers:
            if layer.bias is None or layer.weight_quantizer is None or layer.input_quantizer is None:
                continue
            symmetric = not self.grid(self.site(layer.weight_quantizer)).zero_point.any()
            if uses[layer.bias] == 1 and symmetric:
                bias = self.network.get_parameter(layer.bias)
                input_step = self.grid(self.site(layer.input_quantizer)).step.double()
                weight_site = self.site(layer.weight_quantizer)
                self._raise_dead_steps(weight_site, bias.double().abs() / input_step)
                weight_step = self.grid(weight_site).step.double()
                # One for each channel of a group where a transposed convolution has groups, for all of them in turn.
                step = input_step * weight_step.reshape(-1).repeat(len(bias) // weight_step.numel())
                bias.copy_(((bias.double() / step).round() * step).to(bias.dtype))

    def _raise_dead_steps(self, site: QuantizerSite, bias_over_input_step: Tensor) -> None:
        """Raise weight steps at which the largest bias code, (channels,) over step, would be too large."""
        quantizer, step = self.quantizer(site.name), self.grid(site).step.double()
        floor = bias_over_input_step.reshape(-1, step.numel()).amax(dim=0) / MAX_BIAS_CODE
        if bool((step < floor).any()):
            grown = (floor / step).clamp(min=1.0).to(quantizer.scale.dtype)
            quantizer.scale.data.mul_(grown.reshape(quantizer.scale.shape))


def _read_grid(quantizer: Any, site: QuantizerSite) -> Grid:  # noqa: ANN401 - an NNCF quantizer
    with torch.no_grad():
        low_edge, high_edge = (edge.detach().float() for edge in quantizer.get_input_low_input_high())
        step = (high_edge - low_edge) / (quantizer.levels - 1)
        zero_point = (-low_edge / step).round().long()
    if not bool((torch.isfinite(step) & (step > MIN_STEP)).all()):
        msg = f"The {site.kind} quantizer at {site.layer} has step {step.min().item():g}; calibrate it on other images."
        raise ExportError(msg)
    offset = quantizer.level_low if site.kind == "weight" else 0
    channels = step.numel() > 1
    axis = next((i for i, size in enumerate(step.shape) if size > 1), None)
    flat = step.reshape(-1) if channels else step.reshape(())
    flat_zero = zero_point.reshape(-1) if channels else zero_point.reshape(())
    return Grid(flat, flat_zero + offset, offset, offset + quantizer.levels - 1, axis)
