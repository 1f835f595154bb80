"""Networks that give no classes, as for segmentation and detection: who serves them, and what the others say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import dfq_plugin as dfq
from dfq_plugin.errors import UnsupportedModelError
from dfq_plugin.providers.base import GenerationRequest, Provider, find_problem
from dfq_plugin.providers.registry import build_provider
from dfq_plugin.synthetic_set import SyntheticSet
from dfq_plugin.teacher import read_facts
from dfq_plugin.tests.dense_networks import Map, Segmenter

SHAPE = (3, 8, 8)
QUICK = {"steps": 2, "batch_size": 2}


def generate(network: nn.Module, provider: str, params: dict[str, Any]) -> SyntheticSet:
    return dfq.generate(network, provider=provider, input_shape=SHAPE, num_samples=3, params=params, cache=False)


@pytest.mark.parametrize("network", [Segmenter().eval(), Map().eval()], ids=["dictionary", "tensor"])
@pytest.mark.parametrize(
    ("provider", "params"),
    [
        ("zeroq", QUICK),
        ("genie", QUICK),
        ("auto", QUICK),
        ("deepinversion", QUICK | {"classification_weight": 0}),
        ("fractal", {}),
        ("dead_leaves", {}),
        ("noise", {}),
        ("none", {}),
        ("mixture", {"parts": [{"provider": "zeroq", "params": QUICK}, {"provider": "fractal"}]}),
    ],
)
def test_methods_that_need_no_classes_make_images_without_labels(
    network: nn.Module, provider: str, params: dict[str, Any]
) -> None:
    made = generate(network, provider, params)
    assert tuple(made.images.shape) == (3, *SHAPE)
    assert made.labels is None
    assert made.soft_labels is None


@pytest.mark.parametrize("provider", ["intraq", "gznq", "deepinversion", "gdfq", "qimera", "adadfq"])
def test_methods_of_classes_say_what_the_network_gives_and_who_serves_it(provider: str) -> None:
    told = (
        rf"'{provider}' makes images of .*needs a classifier, .* gives \(1, 5, 4, 4\) for one image.*'zeroq', 'genie'"
    )
    with pytest.raises(UnsupportedModelError, match=told):
        generate(Map().eval(), provider, {})


@pytest.mark.parametrize("provider", ["zeroq", "genie", "intraq"])
def test_network_without_batchnorm_is_told_who_serves_it(provider: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 1))
    with pytest.raises(
        UnsupportedModelError, match=r"BatchNorm layers, and this teacher runs none .*'psaq'.*'fractal'"
    ):
        generate(network, provider, {})
    made = generate(network, "auto", {})
    assert made.provenance.details["chosen"]["provider"] == "fractal"
    assert "no BatchNorm layer" in made.provenance.details["reason"]


def test_labels_of_a_network_without_classes_break_the_contract() -> None:
    network = Map().eval()
    facts, request = read_facts(network, SHAPE), GenerationRequest(3, 0)
    made = generate(network, "noise", {})
    labelled = SyntheticSet(made.images, torch.zeros(3, dtype=torch.int64), None, made.provenance)
    assert find_problem(labelled, facts, request) == "labels, but the teacher gives no classes"


def test_learning_source_refuses_it_too() -> None:
    with pytest.raises(UnsupportedModelError, match="'gdfq' makes images of"):
        dfq.learning_source(Map().eval(), provider="gdfq", input_shape=SHAPE)


def test_auto_takes_zeroq_for_large_images() -> None:
    provider: Provider = build_provider("auto", QUICK)
    facts = read_facts(Map().eval(), (3, 72, 72))
    assert "it gives no classes" in provider.choose(facts).reason  # type: ignore[attr-defined]
    assert provider.choose(facts).provider == build_provider("zeroq", QUICK)  # type: ignore[attr-defined]
