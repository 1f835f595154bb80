from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dfq_plugin.errors import ConfigError, UnsupportedModelError
from dfq_plugin.providers.base import GenerationRequest, request_key
from dfq_plugin.providers.gznq import GZNQ
from dfq_plugin.providers.mixture import Mixture, divide, part_seed
from dfq_plugin.providers.noise import Noise
from dfq_plugin.providers.registry import build_provider, get_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import ProviderContract
from dfq_plugin.tests.providers.shapes import EVERY_SHAPE, Shape, generate

FAST = {"steps": 2, "batch_size": 2}
GZNQ_PART: dict[str, Any] = {"provider": "gznq", "share": 2, "params": FAST}
NOISE_PART: dict[str, Any] = {"provider": "noise"}


def mix(*parts: dict[str, Any]) -> Mixture:
    built = build_provider("mixture", {"parts": list(parts)})
    assert isinstance(built, Mixture)
    return built


class TestContract(ProviderContract):
    provider = mix(GZNQ_PART, NOISE_PART)
    keeps_batches = True


class TestContractOfNestedMixture(ProviderContract):
    provider = mix(NOISE_PART, {"provider": "mixture", "params": {"parts": [NOISE_PART, {"provider": "fractal"}]}})


@EVERY_SHAPE
def test_images_of_every_shape_can_be_made(shape: Shape) -> None:
    assert tuple(generate(mix(GZNQ_PART, NOISE_PART), shape=shape, num_samples=3).images.shape) == (3, *shape)


def test_it_is_registered() -> None:
    assert get_provider("mixture") is Mixture


class TestGenerate:
    def test_parts_follow_each_other_with_seeds_of_their_own(self) -> None:
        teacher = tiny_teacher()
        facts = read_facts(teacher, (3, 8, 8))
        images = mix(GZNQ_PART, NOISE_PART)(teacher, facts, GenerationRequest(6, 9)).images
        first = GZNQ(**FAST)(teacher, facts, GenerationRequest(4, part_seed(9, 0))).images
        second = Noise()(teacher, facts, GenerationRequest(2, part_seed(9, 1))).images
        assert torch.equal(images, torch.cat([first, second]))

    def test_two_equal_parts_make_different_images(self) -> None:
        images = generate(mix(NOISE_PART, NOISE_PART), num_samples=4).images
        assert not torch.equal(images[:2], images[2:])

    def test_labels_are_kept_only_if_every_part_has_them(self) -> None:
        both = generate(mix(GZNQ_PART, {**GZNQ_PART, "share": 1}), num_samples=6)
        assert both.labels is not None
        assert len(both.labels) == 6
        assert generate(mix(GZNQ_PART, NOISE_PART), num_samples=6).labels is None

    def test_a_part_without_images_takes_no_labels_away(self) -> None:
        found = generate(mix(GZNQ_PART, NOISE_PART), num_samples=1)
        assert found.labels is not None

    def test_what_a_part_cannot_use_is_refused(self) -> None:
        teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
        with pytest.raises(UnsupportedModelError, match="'gznq'"):
            mix(GZNQ_PART, NOISE_PART)(teacher, read_facts(teacher, (1, 8, 8)), GenerationRequest(4, 0))

    def test_provenance_holds_the_parts_with_all_their_settings(self, tmp_path: Path) -> None:
        made = generate(mix(GZNQ_PART, NOISE_PART), num_samples=3)
        made.save(tmp_path / "set.safetensors")
        provenance = SyntheticSet.load(tmp_path / "set.safetensors").provenance
        assert [(part["provider"], part["images"]) for part in provenance.details["parts"]] == [
            ("gznq", 2),
            ("noise", 1),
        ]
        assert [part["seed"] for part in provenance.details["parts"]] == [part_seed(0, 0), part_seed(0, 1)]
        gznq, noise = provenance.settings["parts"]
        assert (gznq["provider"], gznq["share"], noise["share"]) == ("gznq", 2.0, 1.0)
        assert gznq["params"] == GZNQ(**FAST).model_dump(mode="json")
        assert noise["params"] == {"distribution": "gaussian"}


class TestDivide:
    @pytest.mark.parametrize(
        ("shares", "total", "expected"),
        [
            ([0.5, 0.5], 4, [2, 2]),
            ([0.5, 0.5], 5, [3, 2]),
            ([3, 1], 8, [6, 2]),
            ([1, 1, 1], 10, [4, 3, 3]),
            ([1, 2], 10, [3, 7]),
            ([1, 99], 3, [0, 3]),
        ],
    )
    def test_matches_hand_computed_value(self, shares: list[float], total: int, expected: list[int]) -> None:
        assert divide(shares, total) == expected

    @given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 200))
    def test_adds_up_and_is_off_by_less_than_one(self, shares: list[float], total: int) -> None:
        sizes = divide(shares, total)
        assert sum(sizes) == total
        assert all(abs(size - share / sum(shares) * total) < 1 for size, share in zip(sizes, shares, strict=True))


def test_seeds_of_all_parts_differ() -> None:
    assert len({part_seed(seed, index) for seed in (0, 1, 10) for index in (0, 1, 10)}) == 9


class TestCache:
    def test_a_mixture_with_files_in_it_is_not_kept(self, tmp_path: Path) -> None:
        folder = {"provider": "folder", "params": {"path": str(tmp_path)}}
        assert mix(NOISE_PART, NOISE_PART).cacheable
        assert not mix(NOISE_PART, folder).cacheable

    def test_key_changes_with_the_revision_of_a_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        facts, request = read_facts(tiny_teacher(), (3, 8, 8)), GenerationRequest(4, 0)
        before = request_key(mix(GZNQ_PART, NOISE_PART), facts, request)
        assert request_key(mix(GZNQ_PART, NOISE_PART), facts, request) == before
        monkeypatch.setattr(GZNQ, "revision", GZNQ.revision + 1)
        assert request_key(mix(GZNQ_PART, NOISE_PART), facts, request) != before


class TestProblems:
    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            pytest.param([], "/calibration/params/parts:", id="no_part"),
            pytest.param([{"share": 1}], "/calibration/params/parts/0/provider:", id="no_name"),
            pytest.param([{"provider": "gznk"}], "parts/0: .*no provider 'gznk'. Did you mean 'gznq'", id="wrong_name"),
            pytest.param(
                [NOISE_PART, {"provider": "gznq", "params": {"step": 1}}], "parts/1: .*'step'", id="wrong_setting"
            ),
            pytest.param([{"provider": "gznq", "params": {"steps": 0}}], "parts/0: .*params/steps", id="wrong_value"),
            pytest.param([{"provider": "noise", "share": 0}], "parts/0/share", id="no_share"),
            pytest.param([{"provider": "noise", "weight": 1}], "parts/0/weight", id="wrong_key"),
            pytest.param([{"provider": "noise", "params": 3}], "parts/0/params", id="params_are_no_mapping"),
            pytest.param(["noise"], "parts/0", id="part_is_no_mapping"),
        ],
    )
    def test_message_points_at_the_part(self, parts: list[Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_provider("mixture", {"parts": parts})
