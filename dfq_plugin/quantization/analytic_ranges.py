"""Activations without any image: the network runs on the distributions that its BatchNorm layers remember.

Paper: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019,
arXiv:1906.04721. Written from the published procedure; the released sources were not used.

What leaves a BatchNorm layer has, in every channel, the layer's shift as its mean and the layer's scale as its standard
deviation. So in place of images the network is run on points z of the normal distribution, side by side in the batch
axis: behind each BatchNorm the values are replaced by ``shift + scale * z``. Activation functions and poolings then run
as they are, whatever they are. Where values of several channels or branches are summed, in layers without BatchNorm and
in additions, the result is taken to be normal, with the mean and the variance of a sum of independent values.

Deviation: the paper has closed forms for ReLU and takes ``shift +- 6 * scale`` as the range; here the points, each with
its density, fill the same histograms that images fill, and the same search decides where to clip.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from nncf.torch.function_hook.hook_executor_mode import OpMeta
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from dfq_plugin.quantization.nncf_graph import CONVOLUTIONS, Body, OperatorGraph
from dfq_plugin.quantization.operator_mode import OperatorMode, tensors_in
from dfq_plugin.quantization.prepare import scope_of
from dfq_plugin.quantization.ranges import TensorHistogram, watch
from dfq_plugin.quantization.switching import in_float
from dfq_plugin.student import Student

POINTS, REACH = 65, 6.0  # evenly spaced from -REACH to REACH standard deviations; 6 as in the paper
LAYERS = CONVOLUTIONS | {"linear"}
ADDITIONS = frozenset({"add", "add_", "__add__", "__iadd__", "__radd__"})
# Their result depends on how values vary together, of which BatchNorm says nothing.
MIXING = frozenset({"matmul", "bmm", "__matmul__", "einsum", "softmax", "layer_norm", "group_norm", "instance_norm"})

Response = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel, both (channels,)."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class MomentPass:
    """What a forward pass on distributions gave.

    Attributes:
        derived: NNCF's names of the operators whose result follows from BatchNorm statistics.
        responses: for each layer with weights among their readers, a function that gives the layer's mean output,
            (1, channels, ...), for another weight and no bias.
    """

    derived: frozenset[str]
    responses: Mapping[str, Response]


def batchnorm_moments(teacher: nn.Module, example: Tensor, graph: OperatorGraph) -> dict[str, Moments]:
    """What the BatchNorm layers of a network say about the operators of its copy without BatchNorm.

    Args:
        teacher: the network with BatchNorm; left as it is.
        example: (N, C, H, W), used to trace one forward pass.
        graph: the operators of the copy that ``prepare`` made.

    Returns:
        By the operator that now gives what the BatchNorm layer gave.
    """
    body = Body(copy.deepcopy(teacher)).eval()
    before = OperatorGraph.trace(body, example)
    heirs = _operators_by_module(graph)
    runs: Counter[str] = Counter()
    found = {}
    for node in before.operators("batch_norm"):
        parameter = next(iter(before.parameters(node).values()), "")
        name = parameter.rpartition(".")[0]
        norm = body.get_submodule(name) if name else None
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - their base class
            continue
        layer = graph.folded.get(scope_of(name))
        heir = name if layer is None else "network." + layer.replace("/", ".")
        operators = heirs.get(heir) or heirs.get(f"{heir}.0", [])  # in a Sequential with what else the layer did
        if runs[name] < len(operators):
            found[operators[runs[name]]] = _moments_behind(norm)
        runs[name] += 1
    return found


def _operators_by_module(graph: OperatorGraph) -> dict[str, list[str]]:
    """The operators that read a parameter of each module, in order of execution."""
    operators: dict[str, list[str]] = {}
    for node in graph.operators():
        for module in dict.fromkeys(name.rpartition(".")[0] for name in graph.parameters(node).values()):
            operators.setdefault(module, []).append(node.node_name)
    return operators


def _moments_behind(norm: nn.modules.batchnorm._BatchNorm) -> Moments:
    if not norm.affine:
        return Moments(torch.zeros(norm.num_features), torch.ones(norm.num_features))
    return Moments(norm.bias.detach().clone(), norm.weight.detach().abs())


def distribution() -> tuple[Tensor, Tensor]:
    """Points z of the logistic distribution of mean 0 and variance 1, and the share of it around each: (POINTS,) both.

    Its tails are heavier than those of the normal distribution, and so are those of real activations: at 4 bits the
    normal one clips them by half too much.
    """
    points = torch.linspace(-REACH, REACH, POINTS)
    shares = (points * math.pi / math.sqrt(12)).cosh().pow(-2)
    return points, shares / shares.sum()


@torch.no_grad()
def derive(
    student: Student, moments: Mapping[str, Moments], graph: OperatorGraph
) -> tuple[dict[str, TensorHistogram], dict[str, Response]]:
    """What BatchNorm statistics say about a student's activations.

    Args:
        student: its weights still in float.
        moments: from ``batchnorm_moments``.
        graph: the network's operators.

    Returns:
        What reaches each activation quantizer, by quantizer, and how each layer responds, by layer; both only for those
        of which the statistics say anything.
    """
    activations = {site.name: student.quantizer(site.name) for site in student.sites if site.kind == "activation"}
    with in_float(student), watch(activations, distribution()[1]) as histograms:
        passed = run_on_moments(student.network, moments, student.input_shape)
    derived = {graph.own_name(operator) for operator in passed.derived}
    known = [site.name for site in student.sites if site.name in activations and derived >= {site.layer, *site.others}]
    responses = {graph.own_name(operator): response for operator, response in passed.responses.items()}
    return {name: histograms[name] for name in known}, responses


@torch.no_grad()
def run_on_moments(network: nn.Module, moments: Mapping[str, Moments], image_shape: tuple[int, int, int]) -> MomentPass:
    """Run a hooked network on distributions; its quantizers should be disabled.

    Args:
        network: without BatchNorm, hooked by NNCF.
        moments: from ``batchnorm_moments``.
        image_shape: (C, H, W).
    """
    mode = _MomentMode(network, moments)
    points, _ = distribution()
    images = points.to(next(network.parameters())).reshape(-1, 1, 1, 1).expand(-1, *image_shape).clone()
    mode.mark_uncertain(images)
    mode.run(images)
    return MomentPass(frozenset(mode.derived), mode.responses)


class _MomentMode(OperatorMode):
    """Executes a network whose batch axis holds points of distributions instead of images."""

    def __init__(self, network: nn.Module, moments: Mapping[str, Moments]) -> None:
        super().__init__(network)
        like = next(network.parameters())
        self._points, self._shares = (part.to(like) for part in distribution())
        self._moments = moments
        self._uncertain = WeakTensorKeyDictionary()
        self.derived: set[str] = set()
        self.responses: dict[str, Response] = {}

    def mark_uncertain(self, values: Tensor) -> None:
        """Say that the distribution of ``values`` is only a guess."""
        self._uncertain[values] = True

    def execute(self, operator: OpMeta, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        args, kwargs = self.quantize_operands(operator, args, kwargs)
        operands = list(tensors_in((*args, *kwargs.values())))
        certain = operator.func.__name__ not in MIXING and not any(each in self._uncertain for each in operands)
        remembered = self._moments.get(operator.op_name)
        if self._is_layer(operator, args):
            result = self._layer(operator, args, kwargs, certain=certain, known=remembered is not None)
        else:
            result = operator.func(*args, **kwargs)
            kept = all(self._is_distribution(each) for each in (*operands[:1], *tensors_in((result,))))
            certain = certain and (kept or operator.func.__name__ not in LAYERS)  # its batch axis may have been moved
            if operator.func.__name__ in ADDITIONS and all(self._is_distribution(each) for each in operands):
                spread = torch.stack([self._variance(each) for each in operands]).sum(dim=0)
                result = self._normal(self._mean(result), spread.sqrt())
        if remembered is not None:
            result, certain = self._remembered(remembered, operator, result), True
        for each in tensors_in((result,)):
            if not certain:
                self.mark_uncertain(each)
            elif self._is_distribution(each):
                self.derived.add(operator.op_name)
        return self.quantize_result(operator, result)

    def _is_layer(self, operator: OpMeta, args: tuple[Any, ...]) -> bool:
        own_weight = len(args) > 1 and isinstance(args[1], nn.Parameter)
        return operator.func.__name__ in LAYERS and own_weight and self._is_distribution(args[0])

    def _layer(
        self, operator: OpMeta, args: tuple[Any, ...], kwargs: dict[str, Any], *, certain: bool, known: bool
    ) -> Tensor:
        """What a layer with weights gives: for the mean of its input, since it is linear, and not for every point.

        Its place in the batch axis is the input's. Where the result is known, only its shape counts.
        """
        values, weight = args[:2]
        product, mean = _product(operator.func, args[2:], kwargs), self._mean(values)
        if certain:
            self.responses[operator.op_name] = partial(product, mean)
        result: Tensor = operator.func(mean, *args[1:], **kwargs)
        if known:
            return result.expand(POINTS, *result.shape[1:])
        return self._normal(result, product(self._variance(values), weight.square()).clamp(min=0).sqrt())

    def _is_distribution(self, values: Tensor) -> bool:
        return values.ndim > 1 and len(values) == POINTS

    def _mean(self, values: Tensor) -> Tensor:
        """Over the batch axis, which stays with length 1."""
        mean: Tensor = torch.tensordot(self._shares, values, dims=1)
        return mean.unsqueeze(0)

    def _variance(self, values: Tensor) -> Tensor:
        return self._mean((values - self._mean(values)).square_())

    def _normal(self, mean: Tensor, std: Tensor) -> Tensor:
        return torch.addcmul(mean, std, self._points.reshape(-1, *[1] * (mean.ndim - 1)))

    def _remembered(self, known: Moments, operator: OpMeta, result: Tensor) -> Tensor:
        """What a BatchNorm layer says, in the shape of what was computed."""
        axis = 1 if operator.func.__name__ in CONVOLUTIONS or result.ndim == 2 else result.ndim - 1
        shape = [-1 if dimension == axis else 1 for dimension in range(result.ndim)]
        return self._normal(known.mean.reshape(shape), known.std.reshape(shape)).expand_as(result).clone()


def _product(layer: Callable[..., Tensor], rest: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[..., Tensor]:
    """A layer with its strides and groups, but without bias: a function of values and weight."""
    positional = [None, *rest[1:]] if rest else []
    named = {name: value for name, value in kwargs.items() if name != "bias"}
    return lambda values, weight: layer(values, weight, *positional, **named)
