"""Block reconstruction: rounding and ranges are learned, block by block, to give what each block gave in float.

Papers: Jeon et al., "Genie: Show Me the Data for Quantization", CVPR 2023, arXiv:2212.04780 (GENIE-M: rounding and step
of the weights learned side by side); Wei et al., "QDrop", ICLR 2022, arXiv:2203.05740 (activations rounded at random);
Nagel et al., "Up or Down?" (AdaRound), ICML 2020, arXiv:2004.10568 (the regulariser); Esser et al., "Learned Step Size
Quantization", ICLR 2020, arXiv:1902.08153 (gradient of the activation steps). Written from the published procedures;
the released sources were not used.

Objective: for each block, with y its output in float for float input and y' that with quantizers, for input that went
through the quantized blocks before it,
    mean over images and places of sum over channels (y' - y)^2  +  sum over weights (1 - |2 h - 1|^b)
where h is the learned fraction of a weight's code and b falls from 20 to 2 between 20 % and 100 % of the steps; before,
the second term is absent. Each element of the block's input is the quantized or the float one, and each element behind
an activation quantizer is rounded or not, with probability one half.

Deviations: BatchNorm is folded. Weights are symmetric. Rounding starts halfway between the weight and its SQuant
rounding instead of at the weight; with images that are not real it then generalises far better. Rates are relative to
what they change and larger, for hundreds of steps a block instead of 20,000. Blocks come from the network's structure.

Memory: besides the network, three tensors of all images at one place between blocks: the block's input in float and
quantized, and its output.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from dfq_plugin.config.quantize_settings import ReconstructionSettings
from dfq_plugin.errors import InputError
from dfq_plugin.progress import track
from dfq_plugin.quantization.block_checkpoint import BlockCheckpoint
from dfq_plugin.quantization.blocks import Block, BlockRunner, find_blocks
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.ranges import set_limits, set_steps
from dfq_plugin.quantization.soft_quantizers import DroppingQuantizer, SoftRounding, random_mask
from dfq_plugin.quantization.switching import in_float
from dfq_plugin.student import Student
from dfq_plugin.training_state import part, under

FIRST_SHARPNESS, LAST_SHARPNESS = 20.0, 2.0  # b of the regulariser
WARM_UP = 0.2  # share of the steps before it sets in
LIMITS, STEP, CODES = "limits", "step", "codes"  # what a block has learned: of activations, of weights

logger = logging.getLogger("nncf.dfq_plugin.quantize")


def reconstruct(
    student: Student,
    graph: OperatorGraph,
    images: Tensor,
    settings: ReconstructionSettings,
    checkpoint: Path | None = None,
) -> None:
    """Learn rounding and ranges of a student block by block, in place; what is learned ends up on the grids.

    A weight that several layers share is left as it is.

    Args:
        student: its weights still in float, its ranges set.
        graph: the network's operators.
        images: (N, C, H, W), on any device.
        settings: steps and rates.
        checkpoint: a file that is written after every block; where there is one already, a run that was killed goes on
            from it, with the same result as an unbroken one. It stays, for whoever keeps the student to remove.

    Raises:
        InputError: the error of a block stops being finite, or the checkpoint is that of another run.
    """
    device, size = next(student.parameters()).device, settings.batch_size
    blocks = find_blocks(graph, student.network)
    exact = rounded = images.to(memory_format=torch.channels_last)
    error = 0.0
    kept = BlockCheckpoint(checkpoint, student, images, settings)
    with track(len(blocks) * settings.steps, "Reconstructing blocks") as bar:
        for index, block in enumerate(blocks):
            runner = BlockRunner(student.network, block, images[:1].to(device))
            with in_float(student):
                target = runner.run_all(exact, size)
            learned = kept.load(index)
            if learned is None:
                learned = _learn_block(student, block, runner, _Data(exact, rounded, target), settings)
            _put(student, learned)
            bar.advance(settings.steps)
            exact, rounded = target, runner.run_all(rounded, size)
            error = float((rounded - exact).square().sum() / exact.square().sum())
            if not math.isfinite(error):
                msg = f"{block.exit}: its error is not finite; lower the rates in quantize.reconstruction."
                raise InputError(msg)
            kept.save(index, learned)
            logger.debug("Block %s to %s: relative error %.4f", block.entry, block.exit, error)
    logger.info("Reconstructed %d blocks: relative error of the output %.4f", len(blocks), error)


def bytes_an_image(graph: OperatorGraph, network: nn.Module) -> int:
    """Memory that is held for each image while blocks are reconstructed: three tensors at the largest place between."""
    sizes = [prod(graph.output_shape(graph.node(block.exit))[1:]) for block in find_blocks(graph, network)]
    return 3 * 4 * max(sizes, default=0)


@dataclass(frozen=True)
class _Data:
    """What one block learns from, each (images, channels, ...).

    Attributes:
        exact: the block's input in float.
        rounded: the same behind the quantized blocks before it.
        target: the block's output in float.
    """

    exact: Tensor
    rounded: Tensor
    target: Tensor

    def batches(self, settings: ReconstructionSettings) -> Iterator[_Data]:
        """One batch a step, in a new order whenever all images have been seen."""
        order = torch.Generator().manual_seed(settings.seed)
        waiting = torch.empty(0, dtype=torch.long)
        for _ in range(settings.steps):
            if len(waiting) < min(settings.batch_size, len(self.exact)):
                waiting = torch.randperm(len(self.exact), generator=order)
            picked, waiting = waiting[: settings.batch_size], waiting[settings.batch_size :]
            yield _Data(self.exact[picked], self.rounded[picked], self.target[picked])

    def to(self, device: torch.device) -> _Data:
        """The same on another device."""
        return _Data(self.exact.to(device), self.rounded.to(device), self.target.to(device))


@dataclass(frozen=True)
class _Soft:
    """The quantizers that stand in for those of a block while it learns, by name.

    Attributes:
        roundings: of weights.
        ranges: of activations.
        masks: draws what is dropped.
    """

    roundings: Mapping[str, SoftRounding]
    ranges: Mapping[str, DroppingQuantizer]
    masks: torch.Generator


def _learn_block(
    student: Student, block: Block, runner: BlockRunner, data: _Data, settings: ReconstructionSettings
) -> dict[str, Tensor]:
    """Let a block learn; the student is left as it was, and what was learned is given by name."""
    with _soft_quantizers(student, block, settings) as soft:
        _learn(soft, runner, data, settings)
    limits = {name: torch.tensor(each.limits(), dtype=torch.float64) for name, each in soft.ranges.items()}
    results = {name: rounding.result() for name, rounding in soft.roundings.items()}
    steps, codes = ({name: result[place] for name, result in results.items()} for place in (0, 1))
    return under(LIMITS, limits) | under(STEP, steps) | under(CODES, codes)


@torch.no_grad()
def _put(student: Student, learned: Mapping[str, Tensor]) -> None:
    """Give the student's own quantizers, and the weights before them, what a block has learned."""
    weights = {layer.weight_quantizer: layer.weight for layer in student.layers}
    for name, limits in part(LIMITS, learned).items():
        set_limits(student.quantizer(name), *limits.tolist())
    codes = part(CODES, learned)
    for name, step in part(STEP, learned).items():
        quantizer, weight = student.quantizer(name), student.network.get_parameter(weights[name])
        weight.data.copy_((codes[name] * step).to(weight))
        set_steps(quantizer, step.to(weight))


@contextmanager
def _soft_quantizers(student: Student, block: Block, settings: ReconstructionSettings) -> Iterator[_Soft]:
    """Exchange the quantizers of a block for ones that learn; afterwards the student's own are back, as they were."""
    masks = torch.Generator(next(student.parameters()).device).manual_seed(settings.seed)
    sites = {site.name: site for site in student.sites if block.holds(site) and not site.is_input}
    weights = {
        layer.weight_quantizer: student.network.get_parameter(layer.weight)
        for layer in student.unshared_layers()
        if layer.weight_quantizer in sites
    }
    roundings = {name: SoftRounding(weight, student.grid(sites[name])) for name, weight in weights.items()}
    ranges = {
        name: DroppingQuantizer(student.grid(site), settings.drop, masks)
        for name, site in sites.items()
        if site.kind == "activation"
    }
    own = {name: student.quantizer(name) for name in (*roundings, *ranges)}
    for name, module in {**roundings, **ranges}.items():
        student.replace_quantizer(name, module)
    try:
        yield _Soft(roundings, ranges, masks)
    finally:
        for name, quantizer in own.items():
            student.replace_quantizer(name, quantizer)


def _learn(soft: _Soft, runner: BlockRunner, data: _Data, settings: ReconstructionSettings) -> None:
    logits = [each.logits for each in soft.roundings.values()]
    steps = [each.step_ratio for each in soft.roundings.values()]
    ranges = [each.step_ratio for each in soft.ranges.values()]
    rates = [(logits, settings.rounding_lr, 0.0), (steps, settings.step_lr, 1.0), (ranges, settings.range_lr, 1.0)]
    groups = [{"params": tensors, "first_lr": rate, "falls": falls} for tensors, rate, falls in rates if tensors]
    if not groups:
        return
    optimizer = torch.optim.Adam(groups, fused=True)
    for step, batch in enumerate(data.batches(settings)):
        progress = step / settings.steps
        for group in optimizer.param_groups:  # a cosine to zero, or constant
            group["lr"] = group["first_lr"] * (1.0 - group["falls"] * (1.0 - math.cos(math.pi * progress)) / 2)
        with torch.enable_grad():
            loss = _loss(soft, runner, batch.to(soft.masks.device), settings, progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _loss(soft: _Soft, runner: BlockRunner, batch: _Data, settings: ReconstructionSettings, progress: float) -> Tensor:
    """The objective for one batch; ``progress`` goes from 0 to 1 over the steps."""
    mixed = torch.lerp(batch.exact, batch.rounded, random_mask(batch.exact, 1.0 - settings.drop, soft.masks))
    error = (runner(mixed) - batch.target).square()
    channels = 1 if error.ndim != 3 else 2  # of tokens, (N, L, C), they come last
    loss = error.sum(dim=channels).mean()
    if progress >= WARM_UP:
        share = (progress - WARM_UP) / (1.0 - WARM_UP)
        sharpness = FIRST_SHARPNESS + (LAST_SHARPNESS - FIRST_SHARPNESS) * share
        undecided = [rounding.indecision(sharpness) for rounding in soft.roundings.values()]
        loss = loss + settings.rounding_weight * sum(undecided)
    return loss
