"""How good the quantized network is: agreement with the teacher, and accuracy where there are labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.student import Student
from dfq_plugin.validation.runtime import run

BATCH, ELEMENTS = 64, 3 * 2**20  # the most images of a forward pass, and elements of all of them; bounds memory


@dataclass(frozen=True)
class Quality:
    """One network against the teacher, on one set of images.

    Attributes:
        agreement: percent of images, or of places in them, whose top class is the teacher's.
        accuracy: percent of those whose top class is their label; None without labels.
        kl: mean KL divergence from the teacher's class probabilities, nats.
        sqnr_db: signal-to-noise ratio of the logits, dB.
    """

    agreement: float
    accuracy: float | None
    kl: float
    sqnr_db: float


def _batches(images: Tensor) -> tuple[Tensor, ...]:
    one = max(1, images[:1].numel())
    batches: tuple[Tensor, ...] = images.split(max(1, min(BATCH, ELEMENTS // one)))
    return batches


def torch_logits(network: nn.Module, images: Tensor) -> Tensor:
    """Logits of a PyTorch network, (N, classes, places...), on the CPU; the network's mode is put back afterwards."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with torch.no_grad():
        logits = torch.cat([network(batch.to(device)).cpu() for batch in _batches(images)])
    network.train(training)
    return logits


def onnx_logits(session: Any, images: Tensor) -> Tensor:  # noqa: ANN401 - onnxruntime ships no types
    """Logits of an onnxruntime session, (N, classes, places...)."""
    return torch.cat([torch.from_numpy(run(session, batch.numpy())[0]) for batch in _batches(images)])


def compare_logits(logits: Tensor, teacher_logits: Tensor, labels: Tensor | None) -> Quality:
    """Quality of ``logits`` against the teacher's.

    Args:
        logits: (N, classes), or (N, classes, H, W) and the like where every place of an image has a class.
        teacher_logits: as ``logits``.
        labels: (N,) or (N, H, W) as the top classes are, or None. Labels of another shape say nothing about them.
    """
    top = logits.argmax(dim=1)
    divergence = F.kl_div(logits.log_softmax(1), teacher_logits.log_softmax(1), reduction="none", log_target=True)
    return Quality(
        agreement=percent(top == teacher_logits.argmax(dim=1)),
        accuracy=None if labels is None or labels.shape != top.shape else percent(top == labels),
        kl=divergence.sum(dim=1).mean().item(),
        sqnr_db=sqnr(teacher_logits, logits),
    )


def percent(hits: Tensor) -> float:
    """Share of true entries, in percent."""
    return 100.0 * hits.double().mean().item()


def sqnr(signal: Tensor, quantized: Tensor) -> float:
    """10 log10 of signal power over error power, dB; infinite when there is no error."""
    error = (signal - quantized).double().square().sum().item()
    power = signal.double().square().sum().item()
    return float("inf") if error == 0 else 10 * float(np.log10(max(power, 1e-30) / error))


def layer_sqnr(student: Student, images: Tensor) -> list[tuple[str, float]]:
    """Per quantized tensor, how far the quantized run is from the same run with every quantizer off, in dB.

    Args:
        student: put back as it was.
        images: (N, C, H, W); a few are enough, every activation is held in memory once.
    """
    enabled = [(site, quantizer) for site, quantizer in student.quantizers() if quantizer.is_enabled_quantization()]
    names = {site.name: site.layer for site, _ in enabled if site.kind == "activation"}
    gradients = [parameter.requires_grad for parameter in student.parameters()]
    quantized = _watch(student, images, names)
    for _, quantizer in enabled:
        quantizer.disable_quantization()
    plain = _watch(student, images, names)
    for _, quantizer in enabled:
        quantizer.enable_quantization()
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        parameter.requires_grad_(gradient)
    return [(layer, sqnr(plain[name], quantized[name])) for name, layer in names.items() if name in plain]


def _watch(student: Student, images: Tensor, names: dict[str, str]) -> dict[str, Tensor]:
    """What comes out of each named quantizer."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:  # noqa: ANN401 - torch's hook signature
            seen[name] = output.detach()

        return hook

    handles = [student.quantizer(name).register_forward_hook(keep(name)) for name in names]
    try:
        with torch.no_grad():
            student(images.to(next(student.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return seen
