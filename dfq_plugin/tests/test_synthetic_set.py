"""A set survives the disk, and NNCF gets every image once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dfq_plugin.errors import ConfigError, InputError
from dfq_plugin.synthetic_set import Provenance, SyntheticSet, _Batches, describe_run
from dfq_plugin.tensor_files import write_tensors

PROVENANCE = Provenance("noise", {"distribution": "gaussian"}, 3, "abc", {"torch": "2"}, "2024-05-01T00:00:00+00:00")


def make_set(count: int, *, labels: bool = False, soft_labels: bool = False) -> SyntheticSet:
    images = torch.arange(count * 12, dtype=torch.float32).view(count, 3, 2, 2)
    return SyntheticSet(
        images,
        torch.arange(count) if labels else None,
        torch.eye(count, 5) if soft_labels else None,
        PROVENANCE,
    )


class TestFile:
    @pytest.mark.parametrize("labels", [False, True])
    @pytest.mark.parametrize("soft_labels", [False, True])
    def test_load_gives_back_what_was_saved(self, tmp_path: Path, labels: bool, soft_labels: bool) -> None:
        made = make_set(4, labels=labels, soft_labels=soft_labels)
        made.save(tmp_path / "set.safetensors")
        found = SyntheticSet.load(str(tmp_path / "set.safetensors"))
        assert torch.equal(found.images, made.images)
        assert (found.labels is not None) == labels
        assert found.labels is None or found.labels.tolist() == [0, 1, 2, 3]
        assert (found.soft_labels is not None) == soft_labels
        assert found.soft_labels is None or torch.equal(found.soft_labels, torch.eye(4, 5))
        assert found.provenance == PROVENANCE

    def test_load_refuses_a_file_of_another_kind(self, tmp_path: Path) -> None:
        write_tensors(tmp_path / "x.safetensors", {"images": torch.zeros(1)})
        with pytest.raises(InputError, match=r"x\.safetensors is not a synthetic set \(its format is None"):
            SyntheticSet.load(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("provenance", ["{", "{}", "[]"])
    def test_load_refuses_a_broken_provenance(self, tmp_path: Path, provenance: str) -> None:
        metadata = {"format": "dfq_plugin.synthetic_set/1", "provenance": provenance}
        write_tensors(tmp_path / "x.safetensors", {"images": torch.zeros(1)}, metadata)
        with pytest.raises(InputError, match="provenance stored in"):
            SyntheticSet.load(tmp_path / "x.safetensors")

    def test_describe_run_names_versions_and_time_zone(self) -> None:
        found = describe_run("noise", {"a": 1}, 7, "abc")
        assert found.versions["torch"] == torch.__version__
        assert set(found.versions) == {"dfq-plugin", "torch", "nncf"}
        assert found.date.endswith("+00:00")
        assert (found.provider, found.settings, found.seed, found.teacher) == ("noise", {"a": 1}, 7, "abc")


def batches(count: int, batch_size: int, backend: str = "torch", input_name: str | None = None) -> _Batches:
    return _Batches(make_set(count).images, batch_size, backend, input_name, None)


class TestBatches:
    def test_give_every_image_once_in_order_with_a_short_last_batch(self) -> None:
        found = batches(5, 2)
        assert len(found) == 3
        assert [len(batch) for batch in found] == [2, 2, 1]
        assert torch.equal(torch.cat(list(found)), make_set(5).images)

    def test_can_be_read_again_and_by_index(self) -> None:
        found = batches(5, 2)
        assert [len(batch) for batch in found] == [len(batch) for batch in found]
        assert torch.equal(found[2], make_set(5).images[4:])

    @pytest.mark.parametrize("index", [3, -1])
    def test_end_where_indices_end(self, index: int) -> None:
        with pytest.raises(IndexError):
            batches(5, 2)[index]

    def test_say_the_size_that_they_really_have(self) -> None:
        assert batches(5, 2).batch_size == 2
        assert batches(5, 32).batch_size == 5

    @pytest.mark.parametrize("backend", ["onnx", "openvino"])
    def test_are_arrays_by_input_name_for_other_backends(self, backend: str) -> None:
        (found,) = batches(2, 2, backend, "pixels")
        assert list(found) == ["pixels"]
        assert isinstance(found["pixels"], np.ndarray)
        assert found["pixels"].dtype == np.float32
        assert np.array_equal(found["pixels"], make_set(2).images.numpy())

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            pytest.param((5, 0), "batch_size must be at least 1, got 0", id="batch_size"),
            pytest.param((5, 2, "tf"), "backend must be .* got 'tf'", id="backend"),
            pytest.param((5, 2, "onnx"), "input_name is needed .* got None for 'onnx'", id="name_missing"),
            pytest.param((5, 2, "torch", "x"), "input_name is needed .* got 'x' for 'torch'", id="name_not_wanted"),
        ],
    )
    def test_refuse_arguments_that_do_not_fit(self, arguments: tuple[Any, ...], told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            batches(*arguments)

    def test_refuse_an_empty_set(self) -> None:
        with pytest.raises(InputError, match="holds no image"):
            batches(0, 2)

    def test_go_to_the_device_that_was_asked_for(self) -> None:
        (found,) = _Batches(make_set(2).images, 2, "torch", None, "meta")
        assert found.device.type == "meta"


@pytest.mark.parametrize("limits", [None, (-2.0, 2.5)])
def test_pixel_range_survives_saving(tmp_path: Path, limits: tuple[float, float] | None) -> None:
    made = SyntheticSet(torch.zeros(1, 3, 2, 2), None, None, Provenance("noise", {}, 0, "", {}, ""), limits)
    made.save(tmp_path / "set.safetensors")
    assert SyntheticSet.load(tmp_path / "set.safetensors").pixel_range == limits
