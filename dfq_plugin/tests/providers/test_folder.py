"""Real images, drawn without replacement in an order that the seed decides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.providers.base import GenerationRequest
from dfq_plugin.providers.folder import Folder
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import read_facts
from dfq_plugin.tensor_files import write_tensors
from dfq_plugin.testing import ProviderContract, tiny_teacher


def make_folder(folder: Path, count: int = 8) -> Path:
    for index in range(count):
        Image.new("RGB", (8, 8), (10 * index,) * 3).save(folder / f"{index % 4}_{index}.png")
    return folder


def take(provider: Folder, num_samples: int, seed: int = 0) -> SyntheticSet:
    teacher = tiny_teacher()
    facts = read_facts(teacher, (3, 8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return provider(teacher, facts, GenerationRequest(num_samples, seed))


def levels(found: SyntheticSet) -> list[int]:
    return [round(value * 25.5) for value in found.images[:, 0, 0, 0].tolist()]


class TestContract(ProviderContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        type(self).provider = Folder(path=make_folder(tmp_path_factory.mktemp("photos")))
        yield
        del type(self).provider


def test_every_image_is_taken_once_in_an_order_of_the_seed(tmp_path: Path) -> None:
    provider = Folder(path=make_folder(tmp_path))
    first, second = levels(take(provider, 8, seed=1)), levels(take(provider, 8, seed=2))
    assert sorted(first) == sorted(second) == list(range(8))
    assert first != second
    assert levels(take(provider, 3, seed=1)) == first[:3]


def test_labels_follow_their_images(tmp_path: Path) -> None:
    found = take(Folder(path=make_folder(tmp_path), label_pattern=r"^(\d)_"), 8)
    assert found.labels is not None
    assert found.labels.tolist() == [level % 4 for level in levels(found)]


def test_images_come_from_a_file_of_tensors_too(tmp_path: Path) -> None:
    pixels = torch.arange(4, dtype=torch.uint8).mul(10).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    write_tensors(tmp_path / "x.safetensors", {"images": pixels, "labels": torch.tensor([3, 2, 1, 0])})
    found = take(Folder(path=tmp_path / "x.safetensors"), 4)
    assert found.labels is not None
    assert found.labels.tolist() == [3 - level for level in levels(found)]


def test_short_side_before_the_crop_can_be_set(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16))
    image.paste((250, 250, 250), (4, 4, 12, 12))
    image.save(tmp_path / "x.png")
    assert levels(take(Folder(path=tmp_path, resize=16), 1)) == [25]
    assert levels(take(Folder(path=tmp_path, resize=8), 1)) == [0]


def test_both_numbers_are_named_when_there_are_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_samples is 9, but .* holds 8 images"):
        take(Folder(path=make_folder(tmp_path)), 9)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no folder .*nowhere"):
        take(Folder(path=tmp_path / "nowhere"), 1)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        pytest.param({}, "/calibration/params/path: provider 'folder' needs this setting", id="no_path"),
        pytest.param({"path": "x", "label_pattern": "("}, "label_pattern: .*not a regular expression", id="broken"),
        pytest.param({"path": "x", "label_pattern": "a"}, "label_pattern: .*must have a group", id="no_group"),
        pytest.param({"path": "x", "resize": 0}, "params/resize: .* got 0", id="resize"),
    ],
)
def test_wrong_settings_are_pointed_at(params: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_provider("folder", params)
