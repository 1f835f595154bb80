"""Our step in NNCF's compression loop: it completes the placement, sets the bits and fits the ranges they want."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nncf
import torch
from nncf.common.graph import NNCFGraph
from nncf.common.tensor_statistics.statistic_point import StatisticPointsContainer
from nncf.common.utils.backend import BackendType
from nncf.quantization.algorithms.algorithm import Algorithm
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import GraphModelWrapper
from nncf.torch.quantization.layers import AsymmetricQuantizer
from torch import nn

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.errors import InputError, UnsupportedModelError
from dfq_plugin.extremes import cover_channels
from dfq_plugin.quantization import ranges
from dfq_plugin.quantization.analytic_ranges import Moments
from dfq_plugin.quantization.bit_budget import choose_bits
from dfq_plugin.quantization.bits import EIGHT, apply_bits, plan_bits
from dfq_plugin.quantization.completion import Completion, complete
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.placement import (
    find_layers,
    find_sites,
    placed_quantizers,
    quantizer_of,
    remove_quantizers,
)
from dfq_plugin.quantization.relu_only import give_weights_zero_points
from dfq_plugin.quantization.rounding import round_student
from dfq_plugin.student import BitAssignment, ProductLayer, QuantizerSite, Student

# A little above what NNCF takes for the range of a tensor that is zero everywhere (nncf/quantization/fake_quantize.py).
ZERO_RANGE_SYMMETRIC, ZERO_RANGE_ASYMMETRIC = 8.2e-5, 8.2e-4


class LowBitStep(Algorithm):  # type: ignore[misc]  # NNCF ships no types
    """Set the bits of the placed quantizers and fit their ranges.

    Args:
        graph: the network as it was before NNCF placed quantizers in it.
        settings: bits and ranges.
        dataset: what sets the ranges; NNCF's pipeline hands none to its algorithms.
        items: how many batches of it.
        moments: what BatchNorm layers said about the network's operators.
        ignored: operators that stay in float.
        keep_input: whether the network's input is quantized.
        checkpoint: of the reconstruction, as ``reconstruct`` takes it.
    """

    def __init__(
        self,
        graph: OperatorGraph,
        settings: QuantizeSettings,
        dataset: nncf.Dataset,
        items: int,
        *,
        moments: Mapping[str, Moments],
        ignored: Sequence[str],
        keep_input: bool,
        checkpoint: Path | None = None,
    ) -> None:
        self._graph = graph
        self._checkpoint = checkpoint
        self._moments = moments
        self._settings = settings
        self._dataset = dataset
        self._items = items
        self._ignored = ignored
        self._keep_input = keep_input
        self._as_in_papers = settings.placement == "relu_only"
        self.sites: list[QuantizerSite] = []
        self.layers: list[ProductLayer] = []
        self.plan: list[BitAssignment] = []

    @property
    def available_backends(self) -> list[BackendType]:
        return [BackendType.TORCH]

    def get_statistic_points(self, model: GraphModelWrapper, graph: NNCFGraph) -> StatisticPointsContainer:  # noqa: ARG002
        return StatisticPointsContainer()

    def apply(
        self,
        model: GraphModelWrapper,
        graph: NNCFGraph,  # noqa: ARG002 - the base class's signature
        statistic_points: StatisticPointsContainer | None = None,  # noqa: ARG002
        dataset: nncf.Dataset | None = None,  # noqa: ARG002
    ) -> GraphModelWrapper:
        fresh = self._complete_placement(model.model)
        self._read_placement(model.model)
        quantizers = {site.name: quantizer_of(model.model, site.name) for site in self.sites}
        searched = self._searched_activations(fresh)
        for site in self.sites:
            _check_range(site, quantizers[site.name], final=site.name not in searched)
        images = torch.cat(list(self._dataset.get_inference_data()))
        channels, height, width = images.shape[1:]
        student = self.student(model.model, (channels, height, width))
        types, folded = self._graph.module_types, self._graph.folded
        planned = plan_bits(self.sites, self.layers, self._settings, types, folded)
        planned = choose_bits(student, self._graph, planned, images, self._settings.allocation)
        self.plan = [apply_bits(entry, quantizers[entry.name]) for entry in planned]
        self._fit_weights(model.model, quantizers)
        self._fit_activations(model.model, {name: quantizers[name] for name in searched}, quantizers)
        round_student(student, self._graph, self._moments, images, self._settings, checkpoint=self._checkpoint)
        return model

    def student(self, network: nn.Module, input_shape: tuple[int, int, int]) -> Student:
        """The quantized network with what is known about it; ``input_shape`` is that of one image, (C, H, W)."""
        return Student(network, input_shape, tuple(self.sites), tuple(self.layers), tuple(self.plan))

    def _complete_placement(self, network: nn.Module) -> set[str]:
        settings = self._settings
        completion = Completion(
            self._graph,
            self._ignored,
            quantize_activations=settings.activation_bits is not None,
            quantize_outputs=settings.quantize_outputs,
            only_rectified=self._as_in_papers,
        )
        overflow_fix = settings.overflow_fix
        fresh = complete(network, completion, self._graph, preset=settings.preset, overflow_fix=overflow_fix)
        if self._as_in_papers:
            give_weights_zero_points(network, self._graph)
        return fresh

    def _read_placement(self, network: nn.Module) -> None:
        hooks = placed_quantizers(network)
        sites = find_sites(hooks, self._graph)
        if not self._keep_input:
            dropped = [site.name for site in sites if site.is_input]
            remove_quantizers(network, [hook for name in dropped for hook in hooks.pop(name)])
            sites = [site for site in sites if site.name in hooks]
        if not any(site.kind == "weight" for site in sites):
            msg = (
                "Nothing was quantized: the network has no convolution and no matrix product with weights, or "
                "quantize.ignored_scopes names all of them."
            )
            raise UnsupportedModelError(msg)
        self.sites, self.layers = sites, find_layers(hooks, sites, self._graph)

    def _fit_weights(self, network: nn.Module, quantizers: dict[str, Any]) -> None:
        weights = {layer.weight_quantizer: layer.weight for layer in self.layers}
        if self._as_in_papers:
            for name, weight in weights.items():
                if name is not None:
                    cover_channels(quantizers[name], network.get_parameter(weight))
            return
        for entry in self.plan:
            ratios = self._weight_ratios(entry) if entry.name in weights else None
            if ratios is not None:
                ranges.fit_scales(quantizers[entry.name], network.get_parameter(weights[entry.name]), ratios)

    def _weight_ratios(self, entry: BitAssignment) -> torch.Tensor | None:
        """The clip ratios to try for a weight; None leaves it the range that NNCF gave it."""
        fixed = self._settings.overflow_fix != "disable"  # NNCF's range then uses half of the codes, right for 8 bits
        choice = self._settings.weight_range
        if choice == "mse" or (choice == "auto" and entry.applied < EIGHT):
            return None if fixed and entry.applied == EIGHT else ranges.CLIP_RATIOS
        return torch.ones(1) if fixed and entry.applied < EIGHT else None

    def _searched_activations(self, fresh: set[str]) -> list[str]:
        """Activation quantizers whose ranges we search; the others keep what NNCF's estimator gave them."""
        search_all = self._settings.activation_range in {"auto", "mse", "batchnorm"}
        return [site.name for site in self.sites if site.kind == "activation" and (search_all or site.name in fresh)]

    def _fit_activations(self, network: nn.Module, searched: dict[str, Any], quantizers: dict[str, Any]) -> None:
        if not searched:
            return
        for quantizer in quantizers.values():
            quantizer.disable_quantization()
        with torch.no_grad(), ranges.watch(searched) as histograms:
            for batch in self._dataset.get_inference_data(range(self._items)):
                network(batch)
        for quantizer in quantizers.values():
            quantizer.enable_quantization()
        layers = {site.name: site.layer for site in self.sites}
        dead = {layer.operator for layer in self.layers if not network.get_parameter(layer.weight).any()}
        for name, quantizer in searched.items():
            if not math.isfinite(histograms[name].limit):
                raise InputError(_not_finite(layers[name], "values on the synthetic images are"))
            if histograms[name].limit == 0.0 and layers[name] not in dead:  # a dead layer gives zero for any image
                raise InputError(_always_zero(layers[name]))
            ranges.fit_range(quantizer, histograms[name])


def _check_range(site: QuantizerSite, quantizer: Any, *, final: bool) -> None:  # noqa: ANN401 - an NNCF quantizer
    """Raise when NNCF found no range for a tensor, which would otherwise show as a network that answers nonsense."""
    with torch.no_grad():
        largest = torch.cat([edge.abs().flatten() for edge in quantizer.get_input_low_input_high()]).max().item()
    if not math.isfinite(largest):
        what = "weight is" if site.kind == "weight" else "values on the synthetic images are"
        raise InputError(_not_finite(site.layer, what))
    floor = ZERO_RANGE_ASYMMETRIC if isinstance(quantizer, AsymmetricQuantizer) else ZERO_RANGE_SYMMETRIC
    if final and site.kind == "activation" and largest < floor:
        raise InputError(_always_zero(site.layer))


def _not_finite(layer: str, what: str) -> str:
    return f"{layer}: its {what} not finite; check the network's weights and the images."


def _always_zero(layer: str) -> str:
    return (
        f"{layer}: it is zero on every synthetic image, so it has no range. Calibrate on other images, or keep it in "
        "float: add it to quantize.ignored_scopes.names."
    )
