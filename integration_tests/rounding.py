"""Networks that round to grids of powers of two: in float32 they compute exactly what integers would.

Steps are powers of two and zero points are even, so no product, sum or tie is rounded anywhere but where a quantizer
says so. What an exported file gives must therefore equal what PyTorch gives, bit by bit.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from dfq_plugin.export.lowering import lower
from dfq_plugin.export.markers import Marker
from dfq_plugin.export.packing import Packing
from dfq_plugin.export.tracing import trace_network
from dfq_plugin.export.writing import write_model
from dfq_plugin.student import Grid
from dfq_plugin.validation.runtime import open_session

Forward = Callable[[nn.Module, Tensor], Tensor]


class Rounding(nn.Module):
    """Rounds to a grid; becomes a marker when it is exported."""

    def __init__(self, grid: Grid, kind: str, layer: str) -> None:
        super().__init__()
        self.grid, self.kind, self.layer = grid, kind, layer

    def forward(self, values: Tensor) -> Tensor:
        grid = self.grid
        shape = [1] * values.ndim
        if grid.axis is not None:
            shape[grid.axis] = -1
        step = grid.step.reshape(shape) if grid.axis is not None else grid.step
        codes = ((values / step).round() + grid.zero_point.reshape(-1)[0]).clamp(grid.low, grid.high)
        return (codes - grid.zero_point.reshape(-1)[0]) * step


def activation(step: float = 1 / 16, zero: int = 128, bits: int = 8, layer: str = "act") -> Rounding:
    """A quantizer of activations, unsigned codes of ``bits`` bits."""
    grid = Grid(torch.tensor(step), torch.tensor(zero), 0, 2**bits - 1, None)
    return Rounding(grid, "activation", layer)


class Layer(nn.Module):
    """A layer whose weight lies on a grid, with steps of powers of two, and whose bias lies on its accumulator's."""

    def __init__(self, layer: nn.Module, bits: int = 8, input_step: float = 1 / 16, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        weight = layer.weight
        self.layer = layer
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        top = 2 ** (bits - 1) - 1
        codes = torch.randint(-top, top + 1, weight.shape, generator=random)
        exponents = torch.randint(0, 2, (weight.shape[axis],), generator=random)
        steps = 2.0 ** (1 - bits - exponents)
        shape = [1] * weight.ndim
        shape[axis] = -1
        with torch.no_grad():
            weight.copy_(codes * steps.reshape(shape))
            if layer.bias is not None:
                numbers = torch.randint(-200, 201, layer.bias.shape, generator=random)
                layer.bias.copy_(numbers * steps.repeat(len(numbers) // len(steps)) * input_step)
        zeros = torch.zeros(len(steps), dtype=torch.int64)
        self.rounding = Rounding(Grid(steps, zeros, -top, top, axis), "weight", "layer")

    @torch.no_grad()
    def halve(self) -> None:
        """Halve the codes of the weight, rounded towards zero, as an overflow fix does."""
        grid, weight = self.rounding.grid, self.layer.weight
        shape = [1] * weight.ndim
        shape[grid.axis or 0] = -1
        step = grid.step.reshape(shape)
        weight.copy_((weight / step / 2).trunc() * step)

    def forward(self, values: Tensor) -> Tensor:
        return torch.func.functional_call(self.layer, {"weight": self.rounding(self.layer.weight)}, (values,))


class Network(nn.Module):
    """A network written as one function; its submodules are given by name."""

    def __init__(self, forward: Forward, **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        self.unused = nn.Parameter(torch.zeros(1))  # tells on which device the network is
        for name, module in modules.items():
            self.add_module(name, module)
            for part in module.modules():
                if isinstance(part, Rounding):
                    part.layer = f"{name}/{part.kind}"
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self, images)


def images(*shape: int, count: int = 4, seed: int = 3) -> Tensor:
    """Images on a grid of steps of 1/16, and codes between -64 and 63."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 64, (count, *shape), generator=random) / 16


def export(network: nn.Module, shape: tuple[int, int, int], path: Path, packing: Packing = "none") -> Path:
    """Write a network as a file, every ``Rounding`` as QuantizeLinear and DequantizeLinear."""
    marked = copy.deepcopy(network)
    for name, module in list(marked.named_modules(remove_duplicate=False)):
        if isinstance(module, Rounding):
            marked.set_submodule(name, Marker(module.grid, module.kind, module.layer))
    model = trace_network(marked, shape, 21)
    lower(model, packing)
    write_model(model, path)
    return path


def run(path: Path, values: Tensor) -> Tensor:
    """What onnxruntime gives at full optimisation."""
    session = open_session(path, threads=1)
    return torch.from_numpy(session.run(None, {"images": values.numpy()})[0])


def kernels(path: Path) -> Counter[str]:
    """The operators onnxruntime really runs."""
    optimized = path.with_suffix(".optimized.onnx")
    open_session(path, optimized_path=optimized)
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


FLOAT_PRODUCTS = {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}


def check(network: nn.Module, shape: tuple[int, int, int], path: Path, packing: Packing = "none") -> Counter[str]:
    """Export, compare bit by bit with PyTorch, and see that no product runs in float; returns what is run."""
    values = images(*shape)
    export(network, shape, path, packing)
    with torch.no_grad():
        expected = network(values)
    assert expected.abs().max() > 0
    result = run(path, values)
    assert result.shape == expected.shape
    assert torch.equal(result, expected), (result - expected).abs().max()
    found = kernels(path)
    assert not FLOAT_PRODUCTS & found.keys(), found
    return found
