"""The product of stage "synthesize": images, labels and where they come from, in memory and on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor

from dfq_plugin import __version__
from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.finite import all_finite
from dfq_plugin.tensor_files import read_tensors, write_tensors

if TYPE_CHECKING:
    import nncf

FORMAT = "dfq_plugin.synthetic_set/1"

Backend = Literal["torch", "onnx", "openvino"]


@dataclass(frozen=True)
class Provenance:
    """Where a synthetic set comes from.

    Attributes:
        provider: Registered name of the method.
        settings: Its hyper-parameters.
        seed: What the random numbers started from.
        teacher: Digest of the teacher.
        versions: Version of each package involved.
        date: When it was made, ISO 8601 in UTC.
        details: What else the method says about this very set, JSON-able: how its losses went, why it was chosen, what
            its parts are.
    """

    provider: str
    settings: dict[str, Any]
    seed: int
    teacher: str
    versions: dict[str, str]
    date: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SyntheticSet:
    """Calibration images with their labels and provenance.

    Attributes:
        images: (N, C, H, W) float32 on the CPU, normalised as the teacher expects its input.
        labels: (N,) int64, or None.
        soft_labels: (N, num_classes) probabilities, or None.
        provenance: Where the set comes from.
        pixel_range: Smallest and largest value that a real image can have in this input space, from the teacher's mean
            and std; None when they are not known. Synthetic pixels may lie outside.
        informative: False when the images only stand in so that the network can be run, and nothing is to be learned
            from them; ranges are then derived from BatchNorm statistics.
    """

    images: Tensor
    labels: Tensor | None
    soft_labels: Tensor | None
    provenance: Provenance
    pixel_range: tuple[float, float] | None = None
    informative: bool = True

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def origin(self) -> dict[str, str]:
        """Where the set comes from, in words, for the files that are made with it."""
        made = self.provenance
        return {
            "provider": made.provider,
            "seed": str(made.seed),
            "num_samples": str(len(self)),
            "teacher": made.teacher,
            "versions": ", ".join(f"{name} {version}" for name, version in sorted(made.versions.items())),
        }

    def save(self, path: str | Path) -> None:
        """Write the set to one safetensors file; an existing file is replaced in one step, never half-written."""
        tensors = {"images": self.images}
        if self.labels is not None:
            tensors["labels"] = self.labels
        if self.soft_labels is not None:
            tensors["soft_labels"] = self.soft_labels
        metadata = {
            "format": FORMAT,
            "provenance": json.dumps(asdict(self.provenance)),
            "pixel_range": json.dumps(self.pixel_range),
            "informative": json.dumps(self.informative),
        }
        write_tensors(Path(path), tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> SyntheticSet:
        """Read a set written by ``save``.

        Raises:
            InputError: The file is missing, cut off, or not a synthetic set.
        """
        tensors, metadata = read_tensors(Path(path), own=True)
        if metadata.get("format") != FORMAT or "images" not in tensors:
            msg = f"{path} is not a synthetic set (its format is {metadata.get('format')!r}, expected {FORMAT!r})."
            raise InputError(msg)
        try:
            provenance = TypeAdapter(Provenance).validate_json(metadata.get("provenance", ""), strict=True)
            limits = TypeAdapter(tuple[float, float] | None).validate_json(metadata.get("pixel_range", "null"))
            informative = TypeAdapter(bool).validate_json(metadata.get("informative", "true"))
        except ValueError as error:
            msg = f"The provenance stored in {path} cannot be read: {error}."
            raise InputError(msg) from error
        labels, soft_labels = tensors.get("labels"), tensors.get("soft_labels")
        found = cls(tensors["images"], labels, soft_labels, provenance, limits, informative)
        problem = _find_problem(found)
        if problem:
            msg = f"{path} holds {problem}."
            raise InputError(msg)
        return found

    def to_nncf(
        self,
        batch_size: int = 32,
        *,
        backend: Backend = "torch",
        input_name: str | None = None,
        device: torch.device | str | None = None,
    ) -> nncf.Dataset:
        """Give the images as a calibration dataset for ``nncf.quantize``.

        The dataset has a length, can be indexed and can be read any number of times; its items are batches. Nothing is
        left out: the last batch is shorter when ``batch_size`` does not divide the number of images. NNCF then still
        weighs each image alike for the ranges; for a model with a fixed batch axis choose a ``batch_size`` that fits.

        Args:
            batch_size: Images in one item.
            backend: What the model is: "torch" gives tensors, "onnx" and "openvino" give ``{input_name: array}``.
            input_name: Name of the model's input, needed for "onnx" and "openvino".
            device: Where the tensors go, for a torch model that is not on the CPU.

        Raises:
            ConfigError: An argument does not fit the others.
            InputError: The set has no image.
        """
        import nncf  # noqa: PLC0415 - costs seconds, and a set can be made and kept without it

        return nncf.Dataset(_Batches(self.images, batch_size, backend, input_name, device))


def _find_problem(found: SyntheticSet) -> str | None:
    """Say in words what no set has; None when all is well. What a request asks for is checked where it is known."""
    images = found.images
    if images.ndim != 4 or images.dtype != torch.float32:
        return f"images of type {images.dtype} and shape {tuple(images.shape)}, expected float32 (N, C, H, W)"
    if not all_finite(images):
        return "images with values that are not finite"
    for name, values in (("labels", found.labels), ("soft_labels", found.soft_labels)):
        if values is not None and len(values) != len(images):
            return f"{len(values)} {name} for {len(images)} images"
    return None


class _Batches:
    """The map-style source that NNCF reads: it asks for ``batch_size``, ``len()``, items and repeated iteration."""

    def __init__(
        self, images: Tensor, batch_size: int, backend: str, input_name: str | None, device: torch.device | str | None
    ) -> None:
        if batch_size < 1:
            msg = f"batch_size must be at least 1, got {batch_size}."
            raise ConfigError(msg)
        if backend not in ("torch", "onnx", "openvino"):
            msg = f"backend must be 'torch', 'onnx' or 'openvino', got '{backend}'."
            raise ConfigError(msg)
        if (backend == "torch") != (input_name is None):
            msg = f"input_name is needed for backend 'onnx' and 'openvino' only, got {input_name!r} for '{backend}'."
            raise ConfigError(msg)
        if len(images) == 0:
            msg = "The synthetic set holds no image; generate one with num_samples of at least 1."
            raise InputError(msg)
        self._images, self._input_name, self._device = images, input_name, device
        self.batch_size = min(batch_size, len(images))

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self.batch_size)

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401 - a tensor or a dictionary of arrays, by backend
        if not 0 <= index < len(self):
            msg = f"batch {index} of {len(self)}"
            raise IndexError(msg)
        batch = self._images[index * self.batch_size : (index + 1) * self.batch_size]
        if self._input_name is not None:
            return {self._input_name: batch.numpy()}
        return batch.to(self._device) if self._device is not None else batch

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


def describe_run(provider: str, settings: dict[str, Any], seed: int, teacher: str) -> Provenance:
    """Make a provenance for a set that is being generated now.

    Args:
        provider: Registered name of the method.
        settings: Its hyper-parameters, JSON-able.
        seed: What the random numbers started from.
        teacher: Digest of the teacher.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    versions = {"dfq-plugin": __version__, "torch": str(torch.__version__), "nncf": version("nncf")}
    return Provenance(provider, settings, seed, teacher, versions, now)
