"""Real images from a folder or a safetensors file, prepared the way the teacher was trained."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.image_files import SUFFIXES, decode_image, list_image_files, pillow
from dfq_plugin.image_labels import labels_from_folders, labels_from_names
from dfq_plugin.progress import track
from dfq_plugin.spreading import spread_evenly
from dfq_plugin.teacher import ModelFacts
from dfq_plugin.tensor_files import read_tensors

MAX_WORKERS = 4  # decoding is done by libraries that let other threads run meanwhile


@dataclass(frozen=True)
class LabelledImages:
    """Images from elsewhere than calibration, ready for the teacher.

    Attributes:
        images: (N, C, H, W) float32, normalised as the teacher expects its input.
        labels: (N,) int64, or None when the source has none.
        source: Where they come from, such as "folder:photos".
        is_real: False for images that a provider made.
    """

    images: Tensor
    labels: Tensor | None
    source: str
    is_real: bool = True


def load_images(source: str, facts: ModelFacts, limit: int | None = None) -> LabelledImages:
    """Load real images, all of them or some that are spread evenly over the source.

    Args:
        source: "folder:DIR" (images in it and below; sub-folders named by number, or as many as there are classes,
            give the labels) or "safetensors:FILE" (``images`` uint8 (N, C, H, W), optionally ``labels`` (N,)).
        facts: The teacher's facts; ``mean`` and ``std`` have to be known.
        limit: At most this many images.

    Raises:
        ConfigError: The source is not of these forms, ``limit`` is below 1, or ``mean`` and ``std`` are not known.
        InputError: The source is missing or empty, or something in it cannot be read or does not fit the teacher.
    """
    kind, _, place = source.partition(":")
    if kind not in ("folder", "safetensors") or not place:
        msg = f"An image source is 'folder:DIR' or 'safetensors:FILE', got '{source}'."
        raise ConfigError(msg)
    if limit is not None and limit < 1:
        msg = f"The limit on the number of images must be at least 1, got {limit}."
        raise ConfigError(msg)
    opened = open_images(Path(place).expanduser(), facts)
    return opened.read(spread_evenly(len(opened), len(opened) if limit is None else limit))


def open_images(
    path: Path, facts: ModelFacts, *, resize: int | None = None, label_pattern: str | None = None
) -> ImageSource:
    """Open a folder of images or a safetensors file without reading the images yet.

    Args:
        path: The folder, or the file, whose name ends in ".safetensors".
        facts: The teacher's facts; ``mean`` and ``std`` have to be known.
        resize: Length in pixels to which the short side is brought before the crop; None for the usual 256 / 224 of
            the crop, and none at all for an image that already has the size of the crop.
        label_pattern: Regular expression whose first group, searched in the file name, is the label.

    Raises:
        ConfigError: ``mean`` and ``std`` are not known, or ``resize`` is shorter than the crop.
        InputError: The source is missing or empty, or does not fit the teacher.
    """
    if facts.mean is None or facts.std is None:
        msg = "Real images need the mean and std that the network was trained with; set model.mean and model.std."
        raise ConfigError(msg)
    if path.suffix == ".safetensors":
        return TensorFileImages(path, facts)
    return FolderImages(path, facts, resize, label_pattern)


class ImageSource(ABC):
    """Images that are read by index."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, indices: Sequence[int]) -> LabelledImages:
        """Read some of the images, in this order."""


class TensorFileImages(ImageSource):
    """Images in a safetensors file: ``images`` uint8 (N, C, H, W) and optionally ``labels`` (N,)."""

    def __init__(self, path: Path, facts: ModelFacts) -> None:
        tensors, _ = read_tensors(path)
        if "images" not in tensors:
            msg = f"{path} holds {sorted(tensors)}, expected 'images' uint8 (N, C, H, W) and optionally 'labels' (N,)."
            raise InputError(msg)
        images, labels = tensors["images"], tensors.get("labels")
        if images.dtype != torch.uint8 or images.shape[1:] != facts.input_shape or len(images) == 0:
            msg = (
                f"'images' in {path} is {images.dtype} of shape {tuple(images.shape)}, expected at least one image of "
                f"type uint8 and shape {facts.input_shape} (C, H, W)."
            )
            raise InputError(msg)
        self._path, self._facts, self._images = path, facts, images
        self._labels = None if labels is None or not facts.num_classes else self._check_labels(labels)

    def __len__(self) -> int:
        return len(self._images)

    def read(self, indices: Sequence[int]) -> LabelledImages:
        chosen = torch.tensor(indices, dtype=torch.int64)
        labels = None if self._labels is None else self._labels[chosen]
        return LabelledImages(normalise(self._images[chosen], self._facts), labels, f"safetensors:{self._path}")

    def _check_labels(self, labels: Tensor) -> Tensor:
        whole = not labels.is_floating_point() and not labels.is_complex() and labels.dtype != torch.bool
        classes = self._facts.num_classes
        if not whole or labels.shape != (len(self._images),) or not ((labels >= 0) & (labels < classes)).all():
            msg = (
                f"'labels' in {self._path} is {labels.dtype} of shape {tuple(labels.shape)}, expected whole numbers "
                f"in 0..{classes - 1}, one for each of the {len(self._images)} images."
            )
            raise InputError(msg)
        return labels.to(torch.int64)


class FolderImages(ImageSource):
    """Image files in a folder and below, sorted by path."""

    def __init__(self, folder: Path, facts: ModelFacts, resize: int | None, label_pattern: str | None) -> None:
        if not folder.is_dir():
            msg = f"There is no folder {folder}."
            raise InputError(msg)
        self._folder, self._facts, self._resize = folder, facts, resize
        channels, height, width = facts.input_shape
        if channels not in (1, 3):
            msg = f"Image files give 1 or 3 channels, but the network takes {channels}; use a safetensors file."
            raise InputError(msg)
        if resize is not None and resize < max(height, width):
            msg = f"resize must be at least {max(height, width)}, the size of the crop {(height, width)}, got {resize}."
            raise ConfigError(msg)
        self.files = list_image_files(folder)
        if not self.files:
            msg = f"The folder {folder} holds no image; looked for {', '.join(sorted(SUFFIXES))} in it and below."
            raise InputError(msg)
        if not facts.num_classes:
            self._labels = None
        elif label_pattern is None:
            self._labels = labels_from_folders(folder, self.files, facts.num_classes)
        else:
            self._labels = labels_from_names(re.compile(label_pattern), self.files, facts.num_classes)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Sequence[int]) -> LabelledImages:
        files = [self.files[index] for index in indices]
        pixels = torch.empty(len(files), *self._facts.input_shape, dtype=torch.uint8)
        broken: list[str] = []
        pillow()  # when it is missing, say so once and not for every file
        with ThreadPoolExecutor(MAX_WORKERS) as pool:
            decoded = pool.map(self._try_to_decode, files)
            for index, found in zip(track(len(files), "Reading images"), decoded, strict=True):
                if isinstance(found, Tensor):
                    pixels[index] = found
                else:
                    broken.append(f"{files[index]} ({found})")
        if broken:
            listed = ", ".join(broken[:3]) + (", ..." if len(broken) > 3 else "")
            msg = f"{len(broken)} of {len(files)} images cannot be read: {listed}. Repair or remove them."
            raise InputError(msg)
        labels = None if self._labels is None else torch.tensor([self._labels[index] for index in indices])
        return LabelledImages(normalise(pixels, self._facts), labels, f"folder:{self._folder}")

    def _try_to_decode(self, path: Path) -> Tensor | str:
        try:
            return decode_image(path, self._facts.input_shape, self._resize)
        except Exception as error:  # noqa: BLE001 - the decoders of the many formats raise whatever they like
            return f"{type(error).__name__}: {error}"


def normalise(pixels: Tensor, facts: ModelFacts) -> Tensor:
    """Bring pixels, uint8 (N, C, H, W), into the teacher's input space, float32 (N, C, H, W)."""
    mean = torch.tensor(facts.mean, dtype=torch.float32).view(1, -1, 1, 1)
    std = torch.tensor(facts.std, dtype=torch.float32).view(1, -1, 1, 1)
    return (pixels.to(torch.float32) / 255.0 - mean) / std
