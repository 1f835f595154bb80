"""The Python interface: one function a stage, plain networks and tensors in and out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dfq_plugin import export, finetuning, pipeline, quantization, validation
from dfq_plugin.batches import BatchSource
from dfq_plugin.config import (
    ExportSettings,
    FinetuneSettings,
    QuantizeSettings,
    ValidateSettings,
    load_config,
    read_section,
)
from dfq_plugin.errors import ConfigError
from dfq_plugin.export import Exported
from dfq_plugin.finetuning import History
from dfq_plugin.memory import freed_memory_kept
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.registry import build_provider, list_providers
from dfq_plugin.quantization import load_student, save_student
from dfq_plugin.report import Report
from dfq_plugin.set_cache import generate_cached
from dfq_plugin.student import Student
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import read_facts
from dfq_plugin.tracking import Tracker
from dfq_plugin.validation import Verdict

__all__ = [
    "export_onnx",
    "finetune",
    "generate",
    "learning_source",
    "list_providers",
    "load_student",
    "quantize",
    "run",
    "save_student",
    "validate",
]

Shape = tuple[int, int, int]


@freed_memory_kept()
def generate(
    model: nn.Module,
    *,
    provider: str,
    input_shape: Shape,
    num_samples: int,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    cache: bool = True,
) -> SyntheticSet:
    """Make calibration images from a trained network, without data.

    Args:
        model: the float network; put back exactly as it was.
        provider: a name from ``list_providers()``.
        input_shape: one image, (C, H, W).
        num_samples: how many images.
        seed: the same seed gives the same images.
        params: the provider's own settings.
        mean: per channel, of pixels in 0..1, as the network was trained with. By it the input is quantized over the
            range of real pixels, without it over that of the synthetic ones, which may be wider; providers that read
            real images need it.
        std: likewise.
        cache: take the set from the cache when the same request was made before.

    Raises:
        ConfigError: no such provider or setting, or a value out of range.
        UnsupportedModelError: the provider cannot use this network.
    """
    method = build_provider(provider, params or {})
    facts = read_facts(model, input_shape, mean=mean, std=std)
    return generate_cached(method, model, facts, GenerationRequest(num_samples, seed), cache=cache)[0]


def learning_source(
    model: nn.Module,
    *,
    provider: str,
    input_shape: Shape,
    seed: int = 0,
    params: Mapping[str, Any] | None = None,
) -> BatchSource:
    """Batches for ``finetune`` from a generator that learns along with the student.

    Args:
        model: the float network.
        provider: a name from ``list_providers()`` that is online.
        input_shape: one image, (C, H, W).
        seed: the same seed gives the same batches.
        params: the provider's own settings, among them ``batch_size`` and ``steps_per_epoch``.

    Raises:
        ConfigError: no such provider or setting, or one that makes its images beforehand.
        UnsupportedModelError: the provider cannot use this network.
    """
    source = build_provider(provider, params or {}).source(
        model, read_facts(model, input_shape), GenerationRequest(1, seed)
    )
    if source is None:
        msg = f"Provider '{provider}' makes its images beforehand; call generate(), and give finetune() the set."
        raise ConfigError(msg)
    return source


@freed_memory_kept()
def quantize(
    model: nn.Module,
    synthetic: SyntheticSet,
    *,
    checkpoint: str | Path | None = None,
    **settings: Any,  # noqa: ANN401 - checked fields
) -> Student:
    """Make a quantized copy of a network.

    Args:
        model: the float network; never modified.
        synthetic: the images to calibrate on.
        checkpoint: a file that block reconstruction writes after every block, from which a killed run goes on; gone in
            the end.
        **settings: fields of ``QuantizeSettings``: ``weight_bits``, ``activation_bits``, ``first_last_bits``, ...

    Raises:
        ConfigError: an unknown setting, or a value out of range.
    """
    place = None if checkpoint is None else Path(checkpoint)
    student = quantization.quantize(model, synthetic, read_section(QuantizeSettings, settings), checkpoint=place)
    if place is not None:
        place.unlink(missing_ok=True)
    return student


@freed_memory_kept()
def finetune(
    model: nn.Module,
    student: Student,
    synthetic: SyntheticSet | BatchSource,
    *,
    checkpoint: str | Path | None = None,
    watch: Callable[[Mapping[str, Sequence[float]]], object] | None = None,
    **settings: Any,  # noqa: ANN401 - checked fields
) -> History:
    """Let the student learn from the network it was made from, in place.

    Args:
        model: the float network; never modified.
        student: its quantized copy.
        synthetic: the images to learn on, or batches from ``learning_source``.
        checkpoint: a file that is written after every epoch, from which a killed run goes on; gone in the end.
        watch: called after every epoch with all curves so far by name, ``distillation`` being the whole loss.
        **settings: fields of ``FinetuneSettings``: ``epochs``, ``lr``, ``batch_size``, ...
    """
    chosen = read_section(FinetuneSettings, settings)
    place = None if checkpoint is None else Path(checkpoint)
    return finetuning.finetune(model, student, synthetic, chosen, place, watch=watch)


def export_onnx(student: Student, path: str | Path, **settings: Any) -> Exported:  # noqa: ANN401 - checked fields
    """Write a student as an integer ONNX file.

    Args:
        student: its biases are put on the integer grid first.
        path: of the file.
        **settings: fields of ``ExportSettings``: ``packing``, ``opset``.
    """
    return export.export_onnx(student, path, read_section(ExportSettings, settings))


@freed_memory_kept()
def validate(
    path: str | Path,
    student: Student,
    images: Tensor,
    *,
    float_path: str | Path | None = None,
    **settings: Any,  # noqa: ANN401 - checked fields
) -> Verdict:
    """Prove that an exported file runs on integer kernels and equals the integer reference.

    Args:
        path: the exported file.
        student: the network it was exported from.
        images: (N, C, H, W) in the network's input space.
        float_path: the float network as ONNX, to compare latency with.
        **settings: fields of ``ValidateSettings``: ``parity_codes``, ``latency_runs``, ``require_integer``.

    Raises:
        ValidationError: a quantized layer runs in float, or a code differs.
    """
    return validation.validate(path, student, images, read_section(ValidateSettings, settings), float_path)


def run(
    source: str | Path | Mapping[str, Any], overrides: Sequence[str] = (), *, trackers: Sequence[Tracker] = ()
) -> Report:
    """Do the whole job that a config describes.

    Args:
        source: a config file, or its content.
        overrides: ``section.field=value``, as on the command line.
        trackers: places of your own to send curves, figures and the report to, beside those in the config.
    """
    return pipeline.run(load_config(source, overrides), trackers)
