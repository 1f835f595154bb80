from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

from dfq_plugin.providers.base import GenerationRequest, Provider
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthesis.curves import POINTS, curves_of, find_curves, without_curves
from dfq_plugin.teacher import read_facts
from dfq_plugin.testing import tiny_teacher


def provenance(provider: str, **details: Any) -> dict[str, Any]:
    return {"provider": provider, "seed": 0, "details": details}


CURVES = {"at": [1, 2], "values": {"a": [2.0, 1.0]}}


class TestCurvesOf:
    def test_terms_are_averaged_over_batches(self) -> None:
        history = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 5.0]), "late": torch.tensor([7.0, 8.0])}]
        assert curves_of(history) == {"at": [1, 2], "values": {"a": [2.0, 3.5], "late": [7.0, 8.0]}}

    def test_many_steps_become_means_of_windows(self) -> None:
        steps = 2 * POINTS + 1
        found = curves_of([{"a": torch.arange(steps, dtype=torch.float32)}])
        assert len(found["at"]) == len(found["values"]["a"]) == POINTS
        assert found["values"]["a"][:3] == [1.0, 3.5, 5.5]  # the first window is the longer one
        assert found["at"][:3] == [2, 4, 6]
        assert found["at"] == sorted(set(found["at"]))

    def test_numbers_are_short(self) -> None:
        assert curves_of([{"a": torch.tensor([1 / 3])}])["values"]["a"] == [0.333333]

    @pytest.mark.parametrize("history", [[], [{}], [{"a": torch.tensor([])}]])
    def test_nothing_comes_of_nothing(self, history: Any) -> None:
        assert curves_of(history) == {}


class TestFindCurves:
    def test_provider_is_named(self) -> None:
        assert find_curves(provenance("zeroq", curves=CURVES)) == [{"provider": "zeroq", **CURVES}]

    def test_those_of_a_chosen_provider_and_of_parts_are_found(self) -> None:
        parts = [provenance("zeroq", curves=CURVES), provenance("fractal"), provenance("genie", curves=CURVES)]
        mixture = provenance("auto", reason="so", chosen=provenance("mixture", parts=parts))
        assert [found["provider"] for found in find_curves(mixture)] == ["zeroq", "genie"]

    @pytest.mark.parametrize(
        "odd",
        [
            None,
            3,
            [1],
            {"at": [1]},
            {"at": [1], "values": [2]},
            {"at": [1], "values": {"a": [1, 2]}},
            {**CURVES, "c": 1},
        ],
    )
    def test_what_is_no_curve_is_passed_over(self, odd: Any) -> None:
        assert find_curves(provenance("mine", curves=odd)) == []
        assert find_curves({"provider": "mine"}) == []

    def test_provenance_is_readable_without_them(self) -> None:
        whole = provenance("auto", reason="so", chosen=provenance("zeroq", curves=CURVES), parts=[{"curves": CURVES}])
        assert without_curves(whole) == provenance("auto", reason="so", chosen=provenance("zeroq"), parts=[{}])


FAST = {"steps": 3, "batch_size": 2}


@pytest.mark.parametrize(
    ("name", "params", "terms"),
    [
        ("zeroq", FAST, {"input", "batchnorm"}),
        ("intraq", FAST, {"batchnorm", "soft_inception", "marginal_distance"}),
        ("gznq", FAST, {"classification", "batchnorm"}),
        ("genie", FAST, {"batchnorm", "input"}),
        ("deepinversion", FAST, {"classification", "batchnorm", "total_variation", "norm"}),
        ("gdfq", {**FAST, "steps_per_epoch": 2}, {"cross_entropy", "batchnorm"}),
        ("adadfq", {**FAST, "steps_per_epoch": 2}, {"margin", "balance", "batchnorm", "adaptability"}),
        ("noise", {}, None),
    ],
)
def test_set_says_how_its_losses_went(name: str, params: dict[str, Any], terms: set[str] | None) -> None:
    teacher = tiny_teacher()
    provider: Provider = build_provider(name, params)
    made = provider(teacher, read_facts(teacher, (3, 8, 8)), GenerationRequest(4, 0))
    curves = find_curves(json.loads(json.dumps(asdict(made.provenance))))
    if terms is None:
        assert curves == []
    else:
        (found,) = curves
        assert found["provider"] == name
        assert found["at"] == [1, 2, 3]
        assert set(found["values"]) == terms
