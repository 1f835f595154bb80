"""The contract of a provider: a method that makes calibration images from a teacher.

A method file holds only the method; everything that every method owes its caller is here.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pydantic
import torch
from torch import Tensor, nn

from dfq_plugin.batches import BatchSource
from dfq_plugin.errors import ConfigError, DivergedError, ProviderContractError
from dfq_plugin.finite import all_finite, first_broken_layer
from dfq_plugin.network_state import Snapshot, frozen, untouched_random_state
from dfq_plugin.synthetic_set import Provenance, SyntheticSet, describe_run
from dfq_plugin.teacher import ModelFacts

__all__ = ["GenerationRequest", "Provider", "checkpoint_folder", "cited", "find_problem", "frozen", "request_key"]

LARGEST_SETTING = 1e30  # float32 ends at 3e38: leaves room for what it is divided by or multiplied with
MAX_LISTED = 5  # a message that names every layer of a network is not read
MAX_SEED = 2**63 - 1  # what a torch.Generator takes on every device


@dataclass(frozen=True)
class Phase:
    """A part of the work of a provider, as work of its own.

    Attributes:
        provider: Who does it.
        request: What it is asked for.
        share: How much of what it would do then belongs to the part, from 0 to 1.
    """

    provider: Provider
    request: GenerationRequest
    share: float = 1.0


@dataclass(frozen=True)
class GenerationRequest:
    """What a caller wants from a provider.

    Attributes:
        num_samples: How many images.
        seed: The same seed gives the same images.
        checkpoint_folder: Where finished batches are kept, so that a killed run resumes with an identical result.

    Raises:
        ConfigError: ``num_samples`` is below 1 or ``seed`` is out of range.
    """

    num_samples: int
    seed: int
    checkpoint_folder: Path | None = None

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            msg = f"num_samples must be at least 1, got {self.num_samples}."
            raise ConfigError(msg)
        if not 0 <= self.seed <= MAX_SEED:
            msg = f"seed must be in 0..{MAX_SEED}, got {self.seed}."
            raise ConfigError(msg)


def cited(default: Any, source: str, description: str, **bounds: Any) -> Any:  # noqa: ANN401 - becomes any field
    """Declare a hyper-parameter together with where its default comes from.

    Args:
        default: The default; ``...`` for a setting that must be given.
        source: Where the default comes from, such as "paper, Sec. 4.1", "released code" or "this project: why".
        description: One line for the help and the report.
        **bounds: Further arguments of ``pydantic.Field``, such as ``ge=1``.
    """
    return pydantic.Field(default, description=description, json_schema_extra={"source": source}, **bounds)


class Provider(pydantic.BaseModel, ABC):
    """A method that makes calibration images; its fields are the hyper-parameters, made with ``cited``.

    Class attributes:
        name: The registered name.
        paper: Title, venue and arXiv number; empty when there is none.
        needs: What the method asks of a teacher, in words.
        online: True when the data is made while the student learns.
        revision: Raised whenever the same settings and seed begin to give other images, so that old sets in the
            cache are not taken for new ones.
        cacheable: False when the images depend on more than teacher, settings and seed, such as a folder of files.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    name: ClassVar[str]
    paper: ClassVar[str]
    needs: ClassVar[str]
    online: ClassVar[bool] = False
    revision: ClassVar[int] = 1
    cacheable: ClassVar[bool] = True

    @pydantic.field_validator("*")
    @classmethod
    def _check_single_precision(cls, value: object) -> object:
        if isinstance(value, float) and abs(value) > LARGEST_SETTING:
            msg = f"must be at most {LARGEST_SETTING:g}, since methods compute in single precision"
            raise ValueError(msg)
        return value

    def requires(self, facts: ModelFacts) -> None:
        """Raise ``UnsupportedModelError`` when the method cannot use this teacher."""

    @abstractmethod
    def generate(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        """Make the images.

        The teacher arrives in eval mode with gradients switched off for its weights, on its own device.
        """

    def phases(self, facts: ModelFacts, request: GenerationRequest) -> Sequence[Phase]:  # noqa: ARG002
        """Take the work apart into phases whose steps each cost the same all along; an estimate tries a few of each.

        Override it for a method whose later steps do more than its first.
        """
        return [Phase(self, request)]

    def source(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> BatchSource | None:  # noqa: ARG002
        """Give batches for fine-tuning that adapt to the student; None when all images are made beforehand."""
        return None

    def __call__(self, teacher: nn.Module, facts: ModelFacts, request: GenerationRequest) -> SyntheticSet:
        """Run the method between its preconditions and postconditions.

        Args:
            teacher: The float network; it is given back exactly as it came.
            facts: Its facts.
            request: How many images, from which seed.

        Raises:
            UnsupportedModelError: The method cannot use this teacher.
            ProviderContractError: The method changed the teacher, or its result has a wrong shape, type or values.
        """
        self.requires(facts)
        request = replace(request, checkpoint_folder=checkpoint_folder(self, facts, request))
        # Leaving inference mode switches gradients on as well: methods optimise pixels whatever the caller's mode is.
        with frozen(teacher), untouched_random_state(teacher), torch.inference_mode(mode=False):
            snapshot = Snapshot(teacher)
            try:
                result = self.generate(teacher, facts, request)
            except DivergedError as error:
                layer = first_broken_layer(teacher, error.images) or "none: the loss alone"
                msg = f"{error} First layer of the teacher with such values: {layer}."
                raise ProviderContractError(msg) from error
            finally:
                changes = snapshot.restore()
        if changes:
            listed = ", ".join(changes[:MAX_LISTED]) + (", ..." if len(changes) > MAX_LISTED else "")
            msg = f"Provider '{self.name}' left the teacher changed: {listed}. The teacher has been put back."
            raise ProviderContractError(msg)
        problem = find_problem(result, facts, request)
        if problem:
            msg = f"Provider '{self.name}' returned {problem}."
            raise ProviderContractError(msg)
        return replace(result, pixel_range=facts.pixel_range)

    def provenance(self, facts: ModelFacts, request: GenerationRequest, **details: Any) -> Provenance:  # noqa: ANN401 - JSON
        """Say where a set made by this provider comes from.

        Args:
            facts: The teacher's.
            request: How many images, from which seed.
            **details: What else there is to say about this very set, JSON-able; ``curves`` (of the losses, as
                ``curves_of`` makes them) are drawn in the report.
        """
        made = describe_run(self.name, self.model_dump(mode="json"), request.seed, facts.digest)
        return replace(made, details=details)


def request_key(provider: Provider, facts: ModelFacts, request: GenerationRequest) -> str:
    """Name everything that the images of a request depend on, as a sha256 in hexadecimal digits."""
    parts = {
        "teacher": facts.digest,
        "input_shape": facts.input_shape,
        "mean": facts.mean,
        "std": facts.std,
        "provider": provider.name,
        "revision": provider.revision,
        "settings": provider.model_dump(mode="json"),
        "seed": request.seed,
        "num_samples": request.num_samples,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def checkpoint_folder(provider: Provider, facts: ModelFacts, request: GenerationRequest) -> Path | None:
    """Give the folder that holds the batches of this very request, inside the one that was asked for."""
    if request.checkpoint_folder is None:
        return None
    # Batches of another request must never be taken for batches of this one.
    return request.checkpoint_folder / request_key(provider, facts, request)[:16]


def find_problem(result: object, facts: ModelFacts, request: GenerationRequest) -> str | None:
    """Say in words what is wrong with the result of a provider; None when it is what was asked for."""
    if not isinstance(result, SyntheticSet):
        return f"a {type(result).__name__}, expected a SyntheticSet"
    count, classes = request.num_samples, facts.num_classes
    checks: list[tuple[str, Tensor | None, tuple[int, ...], torch.dtype]] = [
        ("images", result.images, (count, *facts.input_shape), torch.float32),
        ("labels", result.labels, (count,), torch.int64),
        ("soft_labels", result.soft_labels, (count, classes), torch.float32),
    ]
    for name, tensor, shape, dtype in checks:
        if tensor is not None and (problem := _find_tensor_problem(tensor, shape, dtype)):
            return f"{name} {problem}"
    if result.labels is not None and not classes:
        return "labels, but the teacher gives no classes"
    if result.labels is not None and not ((result.labels >= 0) & (result.labels < classes)).all():
        return f"labels outside 0..{classes - 1}"
    return None


def _find_tensor_problem(tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> str | None:
    if tuple(tensor.shape) != shape:
        return f"of shape {tuple(tensor.shape)}, expected {shape}"
    if tensor.dtype != dtype:
        return f"of type {tensor.dtype}, expected {dtype}"
    if tensor.requires_grad or tensor.device.type != "cpu":
        return f"on device '{tensor.device}' with requires_grad={tensor.requires_grad}, expected detached on the CPU"
    if not all_finite(tensor):
        return "with values that are not finite"
    return None
