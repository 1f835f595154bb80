"""Our steps inside NNCF's compression loop.

NNCF builds its post-training pipeline (placement and 8-bit ranges, then bias correction); ours goes between the two,
as an NNCF ``Algorithm``: it sets the bits of each placed quantizer and searches the ranges those bits want, so that
NNCF's bias correction already sees the final weights.
"""

from __future__ import annotations

import math
from typing import Any

import nncf
import torch
from nncf.common.graph import NNCFGraph
from nncf.common.tensor_statistics.statistic_point import StatisticPointsContainer
from nncf.common.utils.backend import BackendType
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
from nncf.quantization.algorithms.algorithm import Algorithm
from nncf.quantization.algorithms.post_training.pipeline import create_ptq_pipeline
from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet
from nncf.torch.function_hook import get_hook_storage
from nncf.torch.function_hook.hook_storage import decode_hook_name
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import GraphModelWrapper
from nncf.torch.quantization.layers import BaseQuantizer, SymmetricQuantizer
from torch import nn

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.quantization import ranges
from dfq_plugin.quantization.bits import apply_bits, plan_bits
from dfq_plugin.quantization.nncf_graph import MULTIPLY_ACCUMULATE, OperatorGraph
from dfq_plugin.student import BitAssignment, ProductLayer, QuantizerSite

EIGHT = 8  # the only bit width NNCF itself places


def run_pipeline(
    network: nn.Module, graph: OperatorGraph, dataset: nncf.Dataset, settings: QuantizeSettings
) -> tuple[nn.Module, LowBitStep]:
    """Quantize ``network``, already traced as ``graph``, in place through NNCF's pipeline with our step in it.

    Returns:
        The hooked network, and the step, which knows sites, layers and the bit plan.
    """
    example = next(iter(dataset.get_inference_data()))
    items = max(1, math.ceil(settings.num_init_samples / example.shape[0]))
    step = LowBitStep(graph, settings, items)
    pipeline = create_ptq_pipeline(
        preset=nncf.QuantizationPreset(settings.preset),
        subset_size=items,
        ignored_scope=_ignored_scope(settings),
        advanced_parameters=_advanced_parameters(settings),
    )
    pipeline.pipeline_steps[-1].insert(1, step)  # after placement, before bias correction
    wrapped = GraphModelWrapper(network, example)
    return pipeline.run_from_step(wrapped, dataset, wrapped.build_graph()).model, step


class LowBitStep(Algorithm):  # type: ignore[misc] - NNCF ships no types
    """Set the bits of the placed quantizers and fit the ranges of those that are no longer at 8 bits."""

    def __init__(self, graph: OperatorGraph, settings: QuantizeSettings, items: int) -> None:
        self._graph = graph
        self._settings = settings
        self._items = items
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
        dataset: nncf.Dataset | None = None,
    ) -> GraphModelWrapper:
        quantizers = _placed_quantizers(model.model)
        self.sites = [_site(name, self._graph) for name in quantizers]
        self.layers = _product_layers(self._graph, self.sites)
        planned = plan_bits(self.sites, self.layers, self._settings)
        self.plan = [apply_bits(entry, quantizers[entry.name]) for entry in planned]
        self._drop_input_quantizers(quantizers)
        searched = {e.name: quantizers[e.name] for e in self.plan if self._is_searched(e, quantizers[e.name])}
        self._fit_weights(model.model, searched)
        self._fit_activations(model.model, quantizers, searched, dataset)
        return model

    def _drop_input_quantizers(self, quantizers: dict[str, Any]) -> None:
        if not self._settings.quantize_inputs:
            for site in self.sites:
                if site.is_input:
                    quantizers[site.name].disable_quantization()

    def _is_searched(self, entry: BitAssignment, quantizer: BaseQuantizer) -> bool:
        choice = self._settings.weight_range if entry.kind == "weight" else self._settings.activation_range
        wanted = choice == "mse" or (choice == "auto" and entry.applied < EIGHT)
        return wanted and isinstance(quantizer, SymmetricQuantizer)

    def _fit_weights(self, network: nn.Module, searched: dict[str, Any]) -> None:
        by_name = {layer.weight_quantizer: layer for layer in self.layers}
        for name in searched.keys() & by_name.keys():
            quantizer, weight = searched[name], network.get_parameter(by_name[name].weight)
            axis = next((i for i, size in enumerate(quantizer.scale.shape) if size > 1), 0)
            per_channel = quantizer.scale.numel() > 1
            rows = weight if per_channel else weight.reshape(1, -1)
            scales = ranges.search_channel_scales(rows, quantizer.level_low, quantizer.level_high, axis if per_channel else 0)
            quantizer.scale.data.copy_(scales.reshape(quantizer.scale.shape))

    def _fit_activations(
        self, network: nn.Module, quantizers: dict[str, Any], searched: dict[str, Any], dataset: nncf.Dataset | None
    ) -> None:
        activations = {site.name: searched[site.name] for site in self.sites if site.kind == "activation" and site.name in searched}
        if not activations or dataset is None:
            return
        enabled = [quantizer for quantizer in quantizers.values() if quantizer.is_enabled_quantization()]
        for quantizer in enabled:
            quantizer.disable_quantization()
        with torch.no_grad(), ranges.watch(activations) as histograms:
            for index, batch in enumerate(dataset.get_inference_data()):
                if index == self._items:
                    break
                network(batch)
        for quantizer in enabled:
            quantizer.enable_quantization()
        for name, quantizer in activations.items():
            scale = ranges.search_tensor_scale(histograms[name], quantizer.level_low, quantizer.level_high)
            quantizer.scale.data.fill_(scale)


def _placed_quantizers(network: nn.Module) -> dict[str, Any]:
    hooks = get_hook_storage(network).named_hooks()
    return {name: hook for name, hook in hooks if isinstance(hook, BaseQuantizer)}


def _site(name: str, graph: OperatorGraph) -> QuantizerSite:
    """Describe the hook of that name."""
    when, operator, port = decode_hook_name(name)
    node = graph.node(operator)
    if when == "pre_hooks" and port in graph.parameters(node):
        return QuantizerSite(name, "weight", operator, (operator,), multiplied=True)
    if when == "pre_hooks":
        readers = (operator,)
    else:
        readers = tuple(dict.fromkeys(operand.operator for operand in graph.readers_through(node)))
    multiplied = any(graph.node(reader).node_type in MULTIPLY_ACCUMULATE for reader in readers)
    return QuantizerSite(
        name, "activation", operator, readers, multiplied=multiplied, is_input=node.node_type == "nncf_model_input"
    )


def _product_layers(graph: OperatorGraph, sites: list[QuantizerSite]) -> list[ProductLayer]:
    """Every operator that multiplies by a parameter, in order of execution."""
    weights = {site.layer: site.name for site in sites if site.kind == "weight"}
    inputs = {reader: site.name for site in sites if site.kind == "activation" for reader in site.readers}
    layers = []
    for node in graph.operators(*MULTIPLY_ACCUMULATE):
        parameters = graph.parameters(node)
        if 1 in parameters:
            name = node.node_name
            layer = ProductLayer(name, parameters[1], parameters.get(2), weights.get(name), inputs.get(name))
            layers.append(layer)
    return layers


def _ignored_scope(settings: QuantizeSettings) -> nncf.IgnoredScope | None:
    scopes = settings.ignored_scopes
    if not (scopes.names or scopes.patterns or scopes.types):
        return None
    return nncf.IgnoredScope(
        names=list(scopes.names),
        patterns=list(scopes.patterns),
        types=list(scopes.types),
        validate=scopes.validate_scopes,
    )


def _advanced_parameters(settings: QuantizeSettings) -> AdvancedQuantizationParameters:
    return AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix(settings.overflow_fix),
        quantize_outputs=settings.quantize_outputs,
        # One scale per tensor: no integer convolution kernel takes one scale per input channel.
        activations_quantization_params=QuantizationParameters(per_channel=False),
        activations_range_estimator_params=_activation_range(settings),
    )


def _activation_range(settings: QuantizeSettings) -> RangeEstimatorParameters:
    if settings.activation_range == "min_max":
        return RangeEstimatorParametersSet.MINMAX
    if settings.activation_range == "mean_no_outliers":
        return RangeEstimatorParametersSet.MEAN_NO_OUTLIERS_MINMAX
    if settings.activation_range == "mean_percentile":
        low, high = settings.percentiles
        estimator = RangeEstimatorParametersSet.MEAN_QUANTILE
        estimator.min.quantile_outlier_prob, estimator.max.quantile_outlier_prob = low / 100, 1 - high / 100
        return estimator
    return RangeEstimatorParametersSet.MEAN_MINMAX
