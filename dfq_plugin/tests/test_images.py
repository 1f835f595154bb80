"""Real images arrive normalised, labelled and complete, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.images import load_images, normalise, open_images
from dfq_plugin.teacher import ModelFacts
from dfq_plugin.tensor_files import write_tensors

FACTS = ModelFacts((3, 4, 4), 3, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0), (), None, "digest")
BLACK = (-1.0, -1.0, 0.0)
WHITE = (1.0, 3.0, 1.0)


def make_folder(folder: Path, *names: str) -> Path:
    """Make images of one grey level each, which is ten times their place in the list."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (10 * index,) * 3).save(folder / name)
    return folder


def levels(images: Tensor) -> list[int]:
    """Give the grey level of each image back."""
    return [round(value * 255) for value in images[:, 2, 0, 0].tolist()]


def test_normalise_maps_black_and_white_as_the_teacher_was_trained() -> None:
    pixels = torch.stack([torch.zeros(3, 1, 1), torch.full((3, 1, 1), 255.0)]).to(torch.uint8)
    assert torch.allclose(normalise(pixels, FACTS).flatten(1), torch.tensor([BLACK, WHITE]))


class TestFolder:
    def test_gives_images_sorted_by_path_with_labels_and_source(self, tmp_path: Path) -> None:
        make_folder(tmp_path, "1/b.png", "0/c.png", "1/a.png")
        found = load_images(f"folder:{tmp_path}", FACTS)
        assert levels(found.images) == [10, 20, 0]
        assert found.labels is not None
        assert found.labels.tolist() == [0, 1, 1]
        assert found.labels.dtype == torch.int64
        assert found.images.shape == (3, 3, 4, 4)
        assert found.images.dtype == torch.float32
        assert found.source == f"folder:{tmp_path}"

    def test_has_no_labels_without_sub_folders(self, tmp_path: Path) -> None:
        assert load_images(f"folder:{make_folder(tmp_path, 'a.png')}", FACTS).labels is None

    def test_spreads_a_limited_number_over_the_source(self, tmp_path: Path) -> None:
        make_folder(tmp_path, *(f"{index}.png" for index in range(6)))
        assert levels(load_images(f"folder:{tmp_path}", FACTS, limit=3).images) == [0, 20, 40]
        assert len(load_images(f"folder:{tmp_path}", FACTS, limit=100).images) == 6

    def test_names_broken_images_with_their_number(self, tmp_path: Path) -> None:
        make_folder(tmp_path, "a.png", "b.png", "c.png")
        (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:40])
        (tmp_path / "d.png").write_text("hello")
        with pytest.raises(InputError, match=r"2 of 4 images cannot be read: .*b\.png \(.*d\.png \(Unidentified"):
            load_images(f"folder:{tmp_path}", FACTS)

    def test_names_only_the_first_three_broken_images(self, tmp_path: Path) -> None:
        for index in range(5):
            (tmp_path / f"{index}.png").write_text("hello")
        with pytest.raises(InputError, match=r"5 of 5 .*2\.png \([^)]*\), \.\.\.\. Repair or remove them"):
            load_images(f"folder:{tmp_path}", FACTS)

    @pytest.mark.parametrize(
        ("place", "told"), [("missing", "There is no folder"), (".", r"holds no image; looked for \.bmp")]
    )
    def test_says_when_there_is_nothing(self, tmp_path: Path, place: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            load_images(f"folder:{tmp_path / place}", FACTS)

    def test_refuses_network_without_colour_or_grey(self, tmp_path: Path) -> None:
        facts = replace(FACTS, input_shape=(2, 4, 4), mean=(0.0, 0.0), std=(1.0, 1.0))
        with pytest.raises(InputError, match="1 or 3 channels, but the network takes 2"):
            load_images(f"folder:{make_folder(tmp_path, 'a.png')}", facts)

    def test_refuses_resize_below_the_crop(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"resize must be at least 4, .* got 3"):
            open_images(make_folder(tmp_path, "a.png"), FACTS, resize=3)

    def test_reads_labels_from_names(self, tmp_path: Path) -> None:
        source = open_images(make_folder(tmp_path, "x_2.png", "y_0.png"), FACTS, label_pattern=r"_(\d)\.")
        found = source.read([1, 0])
        assert levels(found.images) == [10, 0]
        assert found.labels is not None
        assert found.labels.tolist() == [0, 2]


def _pixels(count: int = 3) -> Tensor:
    return torch.arange(count, dtype=torch.uint8).mul(10).view(-1, 1, 1, 1).expand(count, 3, 4, 4)


class TestTensorFile:
    def test_gives_images_and_labels(self, tmp_path: Path) -> None:
        file = tmp_path / "x.safetensors"
        write_tensors(file, {"images": _pixels(), "labels": torch.tensor([2, 0, 1], dtype=torch.int32)})
        found = load_images(f"safetensors:{file}", FACTS)
        assert levels(found.images) == [0, 10, 20]
        assert found.labels is not None
        assert found.labels.tolist() == [2, 0, 1]
        assert found.labels.dtype == torch.int64
        assert found.source == f"safetensors:{file}"

    def test_does_without_labels_and_takes_a_limit(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "x.safetensors", {"images": _pixels(4)})
        found = load_images(f"safetensors:{tmp_path / 'x.safetensors'}", FACTS, limit=2)
        assert levels(found.images) == [0, 20]
        assert found.labels is None

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            pytest.param(lambda t: {"pixels": t}, r"holds \['pixels'\], expected 'images'", id="name"),
            pytest.param(lambda t: {"images": t.float()}, r"torch.float32 of shape \(3, 3, 4, 4\)", id="type"),
            pytest.param(lambda t: {"images": t[..., :2]}, r"shape \(3, 3, 4, 2\), .* \(3, 4, 4\)", id="shape"),
            pytest.param(lambda t: {"images": t[:0]}, "at least one image", id="empty"),
            pytest.param(lambda t: {"images": t, "labels": torch.zeros(2).long()}, r"of shape \(2,\)", id="count"),
            pytest.param(lambda t: {"images": t, "labels": torch.tensor([0, 1, 3])}, r"in 0\.\.2", id="label_high"),
            pytest.param(lambda t: {"images": t, "labels": torch.tensor([0, 1, -1])}, r"in 0\.\.2", id="label_low"),
            pytest.param(lambda t: {"images": t, "labels": torch.zeros(3)}, "is torch.float32", id="label_type"),
        ],
    )
    def test_says_what_does_not_fit(
        self, tmp_path: Path, change: Callable[[Tensor], dict[str, Tensor]], told: str
    ) -> None:
        write_tensors(tmp_path / "x.safetensors", change(_pixels()))
        with pytest.raises(InputError, match=told):
            load_images(f"safetensors:{tmp_path / 'x.safetensors'}", FACTS)


class TestSource:
    @pytest.mark.parametrize("source", ["none", "photos", "folder:", "zip:photos.zip"])
    def test_refuses_other_forms(self, source: str) -> None:
        with pytest.raises(ConfigError, match=f"'folder:DIR' or 'safetensors:FILE', got '{source}'"):
            load_images(source, FACTS)

    def test_refuses_limit_below_one(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="at least 1, got 0"):
            load_images(f"folder:{tmp_path}", FACTS, limit=0)

    def test_asks_for_mean_and_std_when_they_are_not_known(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"set model\.mean and model\.std"):
            load_images(f"folder:{make_folder(tmp_path, 'a.png')}", replace(FACTS, mean=None, std=None))
