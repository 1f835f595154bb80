"""What is done without any image: equalization, bias correction and ranges from BatchNorm statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dfq_plugin.quantization.analytic_ranges import batchnorm_moments
from dfq_plugin.quantization.equalization import equalize_all, find_pairs
from dfq_plugin.quantization.nncf_graph import OperatorGraph
from dfq_plugin.quantization.prepare import prepare
from dfq_plugin.synthetic_set import SyntheticSet, describe_run
from dfq_plugin.testing import tiny_teacher
from integration_tests import networks
from integration_tests.students import by_layer, distance, make_set, student_of, tiny_student, weights_of

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_equalizing_leaves_the_float_function_as_it_was(name: str) -> None:
    teacher, images = networks.NETWORKS[name](), networks.images(16)
    network = prepare(teacher, images[:1])
    graph = OperatorGraph.trace(network, images[:1])
    with torch.no_grad():
        before = teacher(images)
        moments = batchnorm_moments(teacher, images[:1], graph)
        moved = equalize_all(network, graph, moments)
        error = (network(images) - before).norm() / before.norm()
    assert error < 1e-4
    changed = [key for key in moments if not torch.allclose(moved[key].std, moments[key].std)]
    assert set(changed) == {pair.first for pair in find_pairs(graph)} & set(moments)


def test_an_equalized_student_is_as_near_to_its_teacher() -> None:
    images, teacher = make_set(64, seed=1).images, tiny_teacher()
    equalized = student_of(teacher, equalization=True)
    assert distance(equalized, teacher, images) < 1.5 * distance(student_of(teacher), teacher, images)
    plain, moved = (weights_of(student)["conv1/conv2d/0"][1] for student in (student_of(teacher), equalized))
    assert not torch.allclose(plain, moved)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_correction_from_statistics_brings_a_roughly_rounded_student_nearer(bits: int) -> None:
    images, teacher = make_set(64, seed=1).images, tiny_teacher()
    fields: dict[str, Any] = {"weight_bits": bits, "first_last_bits": None, "rounding": "nearest"}
    plain, corrected = (student_of(teacher, bias_correction=choice, **fields) for choice in ("none", "auto"))
    assert distance(corrected, teacher, images) < distance(plain, teacher, images)


@pytest.mark.parametrize("fitted", [{"reconstruction": {"steps": 5}}, {"rounding": "gptq"}])
def test_correction_is_left_out_where_layers_were_fitted_to_their_outputs(fitted: dict[str, Any]) -> None:
    auto, none, wanted = (
        student_of(tiny_teacher(), weight_bits=3, bias_correction=choice, **fitted).network.get_parameter(
            "network.conv2.bias"
        )
        for choice in ("auto", "none", "batchnorm")
    )
    assert torch.equal(auto, none)
    assert not torch.equal(auto, wanted)


class TestRangesWithoutImages:
    def test_do_not_depend_on_the_images_where_statistics_say_enough(self) -> None:
        ranges = []
        for seed in (0, 1):
            images = make_set(8, seed=seed)
            student = student_of(tiny_teacher(), images, activation_range="batchnorm", activation_bits=4)
            ranges.append({layer: student.grid(site).step for layer, site in by_layer(student).items()})
        first, second = ranges
        assert {"relu1/relu/0", "relu2/relu/0", "pool/adaptive_avg_pool2d/0"} <= first.keys()
        assert all(torch.equal(first[layer], second[layer]) for layer in first)

    def test_are_those_of_the_images_where_there_is_no_batchnorm(self) -> None:
        teacher = networks.bare()
        images = networks.images(32)
        synthetic = SyntheticSet(images, None, None, describe_run("patches", {}, 0, "any"))
        derived, searched = (student_of(teacher, synthetic, activation_range=choice) for choice in ("batchnorm", "mse"))
        for site in searched.sites:
            assert torch.equal(derived.grid(site).step, searched.grid(site).step), site.layer

    def test_come_near_to_those_of_the_images_that_the_statistics_are_of(self) -> None:
        from_images = tiny_student(4)
        four: dict[str, Any] = {"weight_bits": 4, "activation_bits": 4, "residual_bits": 4, "first_last_bits": None}
        derived = student_of(tiny_teacher(), activation_range="batchnorm", **four)
        for layer in ("relu1/relu/0", "relu2/relu/0"):
            site, other = by_layer(derived)[layer], by_layer(from_images)[layer]
            assert derived.grid(site).step.item() == pytest.approx(from_images.grid(other).step.item(), rel=0.5)
