"""Our steps inside NNCF's compression loop.

NNCF builds its post-training pipeline (placement and 8-bit ranges, then bias correction); ours goes between the two,
as an NNCF ``Algorithm``: it sets the bits of each placed quantizer and searches the ranges those bits want, so that
NNCF's bias correction already sees the final weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path

import nncf
from nncf.common.logging.track_progress import track
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, QuantizationParameters
from nncf.quantization.algorithms.post_training.pipeline import create_ptq_pipeline
from nncf.quantization.range_estimator import RangeEstimatorParameters, RangeEstimatorParametersSet
from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import GraphModelWrapper
from rich.console import Console
from torch import nn

from dfq_plugin.config import QuantizeSettings
from dfq_plugin.errors import ConfigError
from dfq_plugin.progress import on_terminal
from dfq_plugin.quantization.analytic_ranges import Moments
from dfq_plugin.quantization.finetune_step import FinetuneStep
from dfq_plugin.quantization.ignored import ignored_operators
from dfq_plugin.quantization.low_bit_step import LowBitStep
from dfq_plugin.quantization.nncf_graph import INPUT, OperatorGraph
from dfq_plugin.student import Student


def run_pipeline(
    network: nn.Module,
    graph: OperatorGraph,
    dataset: nncf.Dataset,
    settings: QuantizeSettings,
    target_device: str,
    *,
    moments: Mapping[str, Moments],
    finish: Callable[[nn.Module, LowBitStep], Student],
    train: Callable[[Student], object] | None,
    checkpoint: Path | None,
) -> tuple[nn.Module, LowBitStep]:
    """Quantize ``network``, already traced as ``graph``, in place through NNCF's pipeline with our step in it.

    Returns:
        The hooked network, and the step, which knows sites, layers and the bit plan.

    Raises:
        ConfigError: an ignored scope or a bit override matches nothing, or there is no such target device.
        InputError: the network or its activations are not finite, or zero everywhere.
        UnsupportedModelError: nothing was quantized.
    """
    example = next(iter(dataset.get_inference_data()))
    items = min(math.ceil(settings.num_init_samples / example.shape[0]), dataset.get_length())
    ignored = ignored_operators(graph, settings.ignored_scopes)
    keep_input = settings.quantize_inputs and not _has_input(graph, ignored)
    step = LowBitStep(
        graph,
        settings,
        dataset,
        items,
        moments=moments,
        ignored=ignored,
        keep_input=keep_input,
        checkpoint=checkpoint,
    )
    pipeline = create_ptq_pipeline(
        preset=nncf.QuantizationPreset(settings.preset),
        target_device=_target_device(target_device),
        subset_size=items,
        ignored_scope=nncf.IgnoredScope(names=ignored),
        advanced_parameters=_advanced_parameters(settings),
    )
    pipeline.pipeline_steps[-1].insert(1, step)  # after placement, before bias correction
    if train is not None:
        pipeline.pipeline_steps[-1].append(FinetuneStep(lambda hooked: finish(hooked, step), train))
    wrapped = GraphModelWrapper(network, example)
    with _bars_on_terminal_only():
        return pipeline.run_from_step(wrapped, dataset, wrapped.build_graph()).model, step


def _target_device(name: str) -> nncf.TargetDevice:
    try:
        return nncf.TargetDevice(name)
    except ValueError as error:
        msg = f"There is no target_device {name!r}; choose from {', '.join(nncf.TargetDevice)}."
        raise ConfigError(msg) from error


def _has_input(graph: OperatorGraph, ignored: list[str]) -> bool:
    return any(graph.node(name).node_type == INPUT for name in ignored)


@contextmanager
def _bars_on_terminal_only() -> Iterator[None]:
    """Let NNCF draw its progress bars where ours are drawn; by itself it writes them into files and pipes as well."""
    as_it_was = track.__init__
    track.__init__ = partialmethod(as_it_was, console=Console(stderr=True), disable=not on_terminal())
    try:
        yield
    finally:
        track.__init__ = as_it_was


def _advanced_parameters(settings: QuantizeSettings) -> AdvancedQuantizationParameters:
    return AdvancedQuantizationParameters(
        overflow_fix=nncf.OverflowFix(settings.overflow_fix),
        quantize_outputs=settings.quantize_outputs,
        disable_bias_correction=settings.bias_correction != "images",
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
        estimator = copy.deepcopy(RangeEstimatorParametersSet.MEAN_QUANTILE)  # NNCF's own is shared by everyone
        estimator.min.quantile_outlier_prob, estimator.max.quantile_outlier_prob = low / 100, 1 - high / 100
        return estimator
    return RangeEstimatorParametersSet.MEAN_MINMAX
