"""The small network has what the methods look at."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dfq_plugin.teacher import digest_of, read_facts
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.networks import _make_images


def test_network_is_the_same_every_time_and_leaves_random_state_alone() -> None:
    state = torch.get_rng_state()
    first = tiny_teacher()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert digest_of(first) == digest_of(tiny_teacher())
    torch.set_rng_state(state)


@pytest.mark.parametrize(("num_classes", "channels", "size"), [(4, 3, 8), (10, 1, 16), (2, 3, 32)])
def test_network_has_the_size_that_was_asked_for(num_classes: int, channels: int, size: int) -> None:
    network = tiny_teacher(num_classes, channels, size)
    facts = read_facts(network, (channels, size, size))
    assert not network.training
    assert facts.num_classes == num_classes
    assert facts.batchnorm_layers == ("bn1", "bn2")
    assert facts.classifier == "fc"


def test_statistics_are_those_of_activations_and_every_class_occurs() -> None:
    network = tiny_teacher()
    images = _make_images(512, 3, 8, torch.Generator().manual_seed(1))
    with torch.no_grad():
        activations = network.get_submodule("conv1")(images)
        answers = network(images).argmax(dim=1)
    norm = network.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    assert torch.allclose(activations.var(dim=(0, 2, 3)), norm.running_var, rtol=0.5)
    assert answers.bincount(minlength=4).min() > 0
