"""Image files become the pixels that the reference evaluation scripts would have given."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from dfq_plugin.errors import InputError
from dfq_plugin.image_files import decode_image, list_image_files


def save(path: Path, height: int, width: int, mode: str = "RGB") -> Path:
    """Save a gradient that tells the sides, the ends and the channels apart."""
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 / max(height - 1, 1), columns * 255 / max(width - 1, 1), rows * 0 + 40], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path)
    return path


class TestListImageFiles:
    def test_finds_images_below_sorted_and_leaves_the_rest(self, tmp_path: Path) -> None:
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "fake.png").mkdir()
        for name in ("b.JPG", "a.png", "deep/er/c.webp", "README.md", "._a.png", "labels.csv"):
            (tmp_path / name).touch()
        found = [path.relative_to(tmp_path).as_posix() for path in list_image_files(tmp_path)]
        assert found == ["a.png", "b.JPG", "deep/er/c.webp"]


class TestDecodeImage:
    @pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (9, 9), (6, 50), (31, 33)])
    @pytest.mark.parametrize(("crop", "resize"), [((8, 8), None), ((8, 12), None), ((7, 7), 20)])
    def test_equals_torchvision(
        self, tmp_path: Path, height: int, width: int, crop: tuple[int, int], resize: int | None
    ) -> None:
        file = save(tmp_path / "x.png", height, width)
        short = resize or round(max(crop) * 256 / 224)
        reference = transforms.Compose(
            [transforms.Resize(short), transforms.CenterCrop(crop), transforms.PILToTensor()]
        )
        assert torch.equal(decode_image(file, (3, *crop), resize), reference(Image.open(file)))

    def test_leaves_image_of_the_right_size_as_it_is(self, tmp_path: Path) -> None:
        file = save(tmp_path / "x.png", 8, 8)
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        assert torch.equal(decode_image(file, (3, 8, 8), None), expected)
        assert not torch.equal(decode_image(file, (3, 8, 8), 10), expected)

    def test_turns_image_upright(self, tmp_path: Path) -> None:
        upright = Image.open(save(tmp_path / "x.png", 8, 8))
        exif = Image.Exif()
        exif[0x0112] = 3  # orientation: upside down
        upright.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "turned.png", exif=exif)
        shape = (3, 8, 8)
        assert torch.equal(
            decode_image(tmp_path / "turned.png", shape, None), decode_image(tmp_path / "x.png", shape, None)
        )

    @pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_takes_every_colour_mode(self, tmp_path: Path, mode: str, channels: int) -> None:
        file = save(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), 8, 8, mode)
        found = decode_image(file, (channels, 8, 8), None)
        assert found.dtype == torch.uint8
        assert found.shape == (channels, 8, 8)
        assert found[0, 4:].sum() > found[0, :4].sum()

    def test_takes_palette_with_transparency(self, tmp_path: Path) -> None:
        image = Image.open(save(tmp_path / "x.png", 8, 8)).convert("P")
        image.save(tmp_path / "y.png", transparency=bytes(range(256)))
        assert decode_image(tmp_path / "y.png", (3, 8, 8), None).shape == (3, 8, 8)

    def test_scales_16_bit_grey(self, tmp_path: Path) -> None:
        levels = np.array([[0, 257], [257 * 128, 65535]], dtype=np.uint16)
        Image.fromarray(levels).save(tmp_path / "x.png")
        assert decode_image(tmp_path / "x.png", (1, 2, 2), None).flatten().tolist() == [0, 1, 128, 255]

    def test_names_the_extra_when_pillow_is_not_installed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = save(tmp_path / "x.png", 8, 8)
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
        with pytest.raises(InputError, match=r"needs Pillow; install it with: pip install 'dfq-plugin\[vision\]'"):
            decode_image(file, (3, 8, 8), None)
