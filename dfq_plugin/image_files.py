"""Decode one image file to the pixels that a network of a given input shape sees."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dfq_plugin.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # whatever the name says: others may start programs
MAX_PIXELS = 2**27  # of a file, and of what it is resized to: 400 MB of memory
RESIZE_TO_CROP = 256 / 224  # how ImageNet classifiers are evaluated: short side 256, crop 224


def list_image_files(folder: Path) -> list[Path]:
    """List the image files in a folder and below, sorted by path; hidden files are left out."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in files if not path.name.startswith("."))


def decode_image(path: Path, shape: tuple[int, int, int], resize: int | None) -> Tensor:
    """Read an image file upright, bring its short side to ``resize`` and cut out the middle.

    Args:
        path: The file.
        shape: (C, H, W) of the result, with C 1 (grey) or 3 (red, green, blue).
        resize: Length in pixels of the short side before the crop; None for the usual one, and for an image that
            already has the size of the crop to stay as it is.

    Returns:
        uint8 (C, H, W).

    Raises:
        InputError: It has more pixels than any photograph, or would have after resizing.
    """
    channels, height, width = shape
    with _opened(path) as file:
        _check_size(*file.size)
        image = _upright(file, "L" if channels == 1 else "RGB")
    if resize is not None or image.size != (width, height):
        image = _resize(image, resize or round(max(height, width) * RESIZE_TO_CROP))
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.view(height, width, channels).permute(2, 0, 1)


def pillow() -> Any:  # noqa: ANN401 - a module
    """Give the PIL package, which is needed only by those who read image files.

    Raises:
        InputError: It is not installed.
    """
    try:
        import PIL.Image  # noqa: PLC0415 - an optional dependency
        import PIL.ImageOps  # noqa: PLC0415
    except ImportError as error:
        msg = "Reading image files needs Pillow; install it with: pip install 'dfq-plugin[vision]'."
        raise InputError(msg) from error
    return PIL


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open without decoding; the limit on pixels is ours, as Pillow's own is a warning first and may be off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pillow().Image.DecompressionBombWarning)
        try:
            opened = pillow().Image.open(path, formats=FORMATS)
        except pillow().Image.DecompressionBombError as error:
            msg = f"far more pixels than any photograph: {error}"
            raise InputError(msg) from error
    with opened as file:
        yield file


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        msg = f"{width} x {height} pixels, more than {MAX_PIXELS} in all"
        raise InputError(msg)


def _upright(image: Image.Image, mode: str) -> Image.Image:
    image = pillow().ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow clips at 255 rather than scaling it
        image = pillow().Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may hold transparency, which the direct way warns about
    return image.convert(mode)


def _resize(image: Image.Image, short: int) -> Image.Image:
    if image.width <= image.height:
        size = (short, int(short * image.height / image.width))
    else:
        size = (int(short * image.width / image.height), short)
    _check_size(*size)
    return image.resize(size, pillow().Image.Resampling.BILINEAR)  # Pillow's filter widens with the scale: antialias
