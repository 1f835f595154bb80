"""Stage "teacher": the float network as given, and what the other stages need to know about it."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dfq_plugin.attention import watch_attention
from dfq_plugin.errors import InputError, UnsupportedModelError
from dfq_plugin.finite import broken_tensors, first_broken_layer, listed, silent_channels
from dfq_plugin.network_state import frozen, untouched_random_state

if TYPE_CHECKING:
    from dfq_plugin.config.schema import ModelSettings

logger = logging.getLogger("nncf.dfq_plugin.teacher")

PIXELS_NOT_KNOWN = (
    "model.mean and model.std are not given and the network does not say: the range of its input follows from the "
    "synthetic images, whose values may be larger than those of any real one, and its bits are then spread too thin. "
    "Give what its training images were normalised with."
)


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a teacher, read from the network itself and never from its name.

    Attributes:
        input_shape: (C, H, W) of one image.
        num_classes: Width of the output (N, num_classes); 0 when the network gives something else.
        mean: Per channel, of pixels in 0..1; None when not known.
        std: Per channel, of pixels in 0..1; None when not known.
        batchnorm_layers: Dotted names of the BatchNorm layers that keep running statistics, in the order in which
            they first run.
        classifier: Dotted name of the last Linear (or 1x1 convolution) layer with ``num_classes`` outputs, whose
            input is the pooled feature; None when there is none.
        digest: sha256 over architecture and weights, the same in every process.
        output: What the network gives for one image, in words.
        attention_operators: How many self-attentions over at least two tokens run in a forward pass.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    batchnorm_layers: tuple[str, ...]
    classifier: str | None
    digest: str
    output: str = "something"
    attention_operators: int = 0

    def require_classes(self, who: str, instead: str) -> None:
        """Raise ``UnsupportedModelError`` when the network does not give (N, num_classes).

        Args:
            who: Needs that; the message begins with it.
            instead: What to do; the message ends with it.
        """
        if not self.num_classes:
            found = f"this network gives {self.output} for one image, not (1, num_classes)"
            msg = f"{who} needs a classifier, and {found}; {instead}."
            raise UnsupportedModelError(msg)

    @property
    def pixel_range(self) -> tuple[float, float] | None:
        """Smallest and largest value of a normalised pixel, over all channels; None when mean or std is not known."""
        if self.mean is None or self.std is None:
            return None
        black = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        white = [(1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True)]
        return min(black), max(white)


@dataclass(frozen=True)
class Teacher:
    """A float network in eval mode together with its facts."""

    network: nn.Module
    facts: ModelFacts


def load_teacher(settings: ModelSettings, input_shape: Sequence[int]) -> Teacher:
    """Load the network that the config names, in eval mode, with its facts.

    Args:
        settings: The section ``model`` of the config.
        input_shape: (C, H, W) of one image.

    Raises:
        InputError: The source or the weights cannot be read, or do not fit together or with the input shape.
        UnsupportedModelError: The output is not (N, num_classes).
    """
    from dfq_plugin.model_sources import load_network  # noqa: PLC0415 - the Python API never needs it

    network, mean, std = load_network(settings)
    if settings.mean is None and mean is not None and len(mean) != input_shape[0]:
        mean = std = None  # the ones published for the network are of other channels
    facts = read_facts(network.eval(), input_shape, mean=mean, std=std)
    facts.require_classes(
        f"{settings.source}: a config", "wrap it so that it gives logits, or use the Python functions"
    )
    if facts.pixel_range is None:
        logger.warning("%s", PIXELS_NOT_KNOWN)
    if silent := silent_channels(network):
        logger.warning("Channels of the teacher that say nothing, dead since training: %s", listed(silent))
    logger.info(
        "Teacher %s: input %s, %d classes, %d BatchNorm layers, digest %s",
        settings.source,
        facts.input_shape,
        facts.num_classes,
        len(facts.batchnorm_layers),
        facts.digest[:12],
    )
    return Teacher(network, facts)


def read_facts(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ModelFacts:
    """Read the facts of a network from one forward pass in eval mode; the network is given back as it came.

    Args:
        model: The network.
        input_shape: (C, H, W) of one image.
        mean: Per channel, of pixels in 0..1, as the network was trained with.
        std: Likewise.

    Raises:
        InputError: The network holds numbers that are not finite, or gives such for an image; it refuses an image of
            this shape; or ``mean`` or ``std`` does not fit it.
    """
    shape = _check_shape(input_shape)
    _check_normalisation(mean, std, channels=shape[0])
    if broken := broken_tensors(model):
        msg = f"{type(model).__name__} holds numbers that are not finite, in {listed(broken)}; its training went wrong."
        raise InputError(msg)
    order, output, attentions = _run_once(model, shape)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors_in(output)):
        with frozen(model), untouched_random_state(model):
            layer = first_broken_layer(model, torch.zeros(1, *shape))
        msg = f"{type(model).__name__} gives numbers that are not finite for a black image; the first layer is {layer}."
        raise InputError(msg)
    classified = isinstance(output, Tensor) and output.ndim == 2 and len(output) == 1
    num_classes = output.shape[1] if classified else 0
    modules = dict(model.named_modules())
    classifiers = [name for name in order if num_classes and _outputs_of_classifier(modules[name]) == num_classes]
    return ModelFacts(
        input_shape=shape,
        num_classes=num_classes,
        mean=None if mean is None else tuple(float(value) for value in mean),
        std=None if std is None else tuple(float(value) for value in std),
        batchnorm_layers=tuple(dict.fromkeys(name for name in order if _keeps_statistics(modules[name]))),
        classifier=classifiers[-1] if classifiers else None,
        digest=digest_of(model),
        output=f"{tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}",
        attention_operators=attentions,
    )


@contextmanager
def pooled_features(teacher: nn.Module, facts: ModelFacts) -> Iterator[Callable[[], Tensor]]:
    """Read the pooled feature, the input of the classifier, in the forward passes that run inside.

    Gradients flow through what is read::

        with pooled_features(teacher, facts) as features:
            logits = teacher(images)
            loss = criterion(features())

    Yields:
        A function that gives the feature of the latest forward pass, flattened to (N, features).

    Raises:
        UnsupportedModelError: The teacher has no classifier layer.
    """
    if facts.classifier is None:
        msg = "The teacher has no Linear or 1x1 convolution layer that gives the classes, so no pooled feature."
        raise UnsupportedModelError(msg)
    seen: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = [inputs[0].flatten(start_dim=1)]

    def read() -> Tensor:
        if not seen:
            msg = "Run the teacher on images before its pooled features are read."
            raise InputError(msg)
        return seen[0]

    handle = teacher.get_submodule(facts.classifier).register_forward_pre_hook(keep)
    try:
        yield read
    finally:
        handle.remove()


def digest_of(network: nn.Module) -> str:
    """Name a network by what it computes: sha256 over its layers (class, place, options) and its tensors."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        # A representation may hold memory addresses, which differ from process to process.
        options = re.sub(r"0x[0-9a-fA-F]+", "", module.extra_repr())
        digest.update(f"{name}|{type(module).__module__}.{type(module).__qualname__}|{options}\n".encode())
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _run_once(model: nn.Module, shape: tuple[int, int, int]) -> tuple[list[str], Any, int]:
    """Give the layers in order of execution, the output for one image, and the number of attentions."""
    order: list[str] = []
    like = next(model.parameters(), torch.zeros(()))
    image = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
    with ExitStack() as stack:
        stack.enter_context(frozen(model))
        stack.enter_context(untouched_random_state(model))
        stack.enter_context(torch.no_grad())
        for name, module in model.named_modules():
            handle = module.register_forward_pre_hook(lambda _module, _inputs, name=name: order.append(name))
            stack.callback(handle.remove)
        try:
            with watch_attention() as attended:
                output = model(image)
        except Exception as error:  # a foreign network may raise anything
            msg = f"{type(model).__name__} refuses an image of shape {shape} (C, H, W): {error}"
            raise InputError(msg) from error
    return order, output, len(attended)


def _tensors_in(output: object) -> Iterator[Tensor]:
    """Every tensor of real numbers in what a network gives, however it is packed."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        yield from (tensor for value in output.values() for tensor in _tensors_in(value))
    elif isinstance(output, list | tuple):
        yield from (tensor for value in output for tensor in _tensors_in(value))


def _check_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(input_shape) != 3 or any(size < 1 for size in input_shape):
        msg = f"input_shape must be (C, H, W) of one image, each at least 1, got {tuple(input_shape)}."
        raise InputError(msg)
    channels, height, width = input_shape
    return int(channels), int(height), int(width)


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> None:
    if (mean is None) != (std is None):
        msg = f"mean and std are needed together, got mean {mean} and std {std}."
        raise InputError(msg)
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            msg = f"{name} must have one value for each of the {channels} channels, got {list(values)}."
            raise InputError(msg)
    if std is not None and not all(value > 0 for value in std):
        msg = f"std must be above 0 in every channel, got {list(std)}."
        raise InputError(msg)


def _keeps_statistics(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.running_mean is not None


def _outputs_of_classifier(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and all(size == 1 for size in module.kernel_size):
        return module.out_channels
    return None
