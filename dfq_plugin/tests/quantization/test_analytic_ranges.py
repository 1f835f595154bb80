"""Activations from BatchNorm statistics alone: closed forms, sums, and what cannot be derived."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfq_plugin.quantization.analytic_ranges import (
    Moments,
    batchnorm_moments,
    derive,
    distribution,
    run_on_moments,
)
from dfq_plugin.quantization.nncf_graph import Body, OperatorGraph
from dfq_plugin.quantization.prepare import prepare
from dfq_plugin.student import QuantizerSite, Student
from dfq_plugin.tests.quantization.networks import EXAMPLE, filled, put

SHAPE = (3, 8, 8)


class Probe(nn.Module):
    """Keeps what passes through a hook."""

    def forward(self, values: Tensor) -> Tensor:
        self.seen = values.detach().clone()
        return values


class Small(nn.Module):
    """A convolution with BatchNorm and ReLU, a residual sum, a layer without BatchNorm, a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.bare = nn.Conv2d(4, 5, 3, padding=1)
        self.fc = nn.Linear(5, 6)

    def forward(self, pixels: Tensor) -> Tensor:
        low = F.relu(self.norm1(self.conv1(pixels)))
        high = F.relu(self.norm2(self.conv2(low)) + low)
        features = self.bare(high).mean((2, 3))
        logits: Tensor = self.fc(torch.softmax(features, dim=1))
        return logits


def prepared(teacher: nn.Module) -> tuple[Body, OperatorGraph, dict[str, Moments]]:
    body = prepare(teacher, EXAMPLE)
    graph = OperatorGraph.trace(body, EXAMPLE)
    return body, graph, batchnorm_moments(teacher, EXAMPLE, graph)


def mean_of(values: Tensor) -> Tensor:
    return torch.einsum("n,n...->...", distribution()[1], values)


def variance_of(values: Tensor) -> Tensor:
    return mean_of((values - mean_of(values)).square())


def test_distribution_has_mean_zero_variance_one_and_heavy_tails() -> None:
    points, shares = distribution()
    assert shares.sum().item() == pytest.approx(1.0)
    assert (points * shares).sum().item() == pytest.approx(0.0, abs=1e-6)
    assert (points.square() * shares).sum().item() == pytest.approx(1.0, rel=0.01)
    assert (points.pow(4) * shares).sum().item() == pytest.approx(4.2, rel=0.06)  # 3 for the normal distribution
    assert points.abs().max() == 6.0


class TestMoments:
    def test_are_shift_and_size_of_scale_at_the_layer_that_took_the_batchnorm_in(self) -> None:
        teacher = filled(Small())
        _, _, moments = prepared(teacher)
        assert set(moments) == {"network/conv1/conv2d/0", "network/conv2/conv2d/0"}
        assert torch.equal(moments["network/conv1/conv2d/0"].mean, teacher.norm1.bias)
        assert torch.equal(moments["network/conv1/conv2d/0"].std, teacher.norm1.weight.abs())

    def test_are_at_the_layer_that_stands_for_a_batchnorm_that_was_not_folded(self) -> None:
        class First(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.norm, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)

            def forward(self, pixels: Tensor) -> Tensor:
                logits: Tensor = self.conv(F.relu(self.norm(pixels))).mean((2, 3))
                return logits

        _, _, moments = prepared(filled(First()))
        assert set(moments) == {"network/norm/conv2d/0"}

    def test_are_zero_and_one_without_affine_values(self) -> None:
        _, _, moments = prepared(filled(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, affine=False))))
        (known,) = moments.values()
        assert known.mean.tolist() == [0.0, 0.0]
        assert known.std.tolist() == [1.0, 1.0]

    def test_leave_the_teacher_alone(self) -> None:
        teacher = filled(Small())
        before = {name: value.clone() for name, value in teacher.state_dict().items()}
        _, _, moments = prepared(teacher)
        moments["network/conv1/conv2d/0"].mean.add_(1.0)
        assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


class TestPass:
    def test_relu_of_a_batchnorm_has_the_mean_of_the_closed_form(self) -> None:
        teacher = filled(Small())
        body, _, moments = prepared(teacher)
        probe = Probe()
        put(body, "post", "network/relu/0", 0, probe)
        run_on_moments(body, moments, SHAPE)
        scale = teacher.norm1.weight.abs() * math.sqrt(3) / math.pi  # of a logistic distribution with that deviation
        expected = scale * F.softplus(teacher.norm1.bias / scale)
        assert torch.allclose(mean_of(probe.seen)[:, 3, 3], expected, rtol=0.01)
        assert probe.seen.min() == 0.0

    def test_sum_has_the_sum_of_the_means_and_of_the_variances(self) -> None:
        teacher = filled(Small())
        body, _, moments = prepared(teacher)
        total, low = Probe(), Probe()
        put(body, "post", "network/relu/0", 0, low)
        put(body, "post", "network/add/0", 0, total)
        run_on_moments(body, moments, SHAPE)
        mean = teacher.norm2.bias + mean_of(low.seen)[:, 0, 0]
        variance = teacher.norm2.weight.square() + variance_of(low.seen)[:, 0, 0]
        assert torch.allclose(mean_of(total.seen)[:, 0, 0], mean, rtol=1e-3, atol=1e-4)
        assert torch.allclose(variance_of(total.seen)[:, 0, 0], variance, rtol=0.02)

    def test_layer_without_batchnorm_adds_independent_inputs_and_sees_its_padding_as_zeros(self) -> None:
        teacher = filled(Small())
        body, _, moments = prepared(teacher)
        before, after = Probe(), Probe()
        put(body, "post", "network/relu/1", 0, before)
        put(body, "post", "network/bare/conv2d/0", 0, after)
        run_on_moments(body, moments, SHAPE)
        weight, bias = teacher.bare.weight, teacher.bare.bias
        mean = F.conv2d(mean_of(before.seen).unsqueeze(0), weight, bias, padding=1)[0]
        variance = F.conv2d(variance_of(before.seen).unsqueeze(0), weight.square(), padding=1)[0]
        assert torch.allclose(mean_of(after.seen), mean, rtol=1e-3, atol=1e-4)
        assert torch.allclose(variance_of(after.seen), variance, rtol=0.02)
        assert not torch.allclose(mean[:, 0, 0], mean[:, 3, 3])

    def test_nothing_is_derived_before_the_first_batchnorm_and_behind_a_softmax(self) -> None:
        body, _, moments = prepared(filled(Small()))
        passed = run_on_moments(body, moments, SHAPE)
        assert {"network/conv1/conv2d/0", "network/relu/1", "network/bare/conv2d/0", "network/mean/0"} <= passed.derived
        assert not {"network/softmax/0", "network/fc/linear/0"} & passed.derived
        without = run_on_moments(body, {}, SHAPE)
        assert without.derived == frozenset()
        assert not without.responses

    def test_response_is_the_mean_output_for_another_weight_without_bias(self) -> None:
        body, _, moments = prepared(filled(Small()))
        before = Probe()
        put(body, "post", "network/relu/1", 0, before)
        passed = run_on_moments(body, moments, SHAPE)
        assert set(passed.responses) == {"network/conv2/conv2d/0", "network/bare/conv2d/0"}  # conv1 reads the image
        weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
        expected = F.conv2d(mean_of(before.seen).unsqueeze(0), weight, padding=1)
        assert torch.allclose(passed.responses["network/bare/conv2d/0"](weight), expected, rtol=1e-4, atol=1e-4)

    def test_parts_of_a_split_are_followed(self) -> None:
        class Halves(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

            def forward(self, pixels: Tensor) -> Tensor:
                first, second = self.norm(self.conv(pixels)).chunk(2, dim=1)
                logits: Tensor = torch.cat([F.relu(first), torch.sigmoid(second)], dim=1).mean((2, 3))
                return logits

        body, _, moments = prepared(filled(Halves()))
        derived = run_on_moments(body, moments, SHAPE).derived
        assert {"network/relu/0", "network/sigmoid/0", "network/cat/0"} <= derived


def test_derive_gives_histograms_of_quantizers_and_responses_of_layers_under_their_own_names() -> None:
    class Switch(Probe):
        """As much of a quantizer as is needed here."""

        enabled = True

        def is_enabled_quantization(self) -> bool:
            return self.enabled

        def enable_quantization(self) -> None:
            self.enabled = True

        def disable_quantization(self) -> None:
            self.enabled = False

    body, graph, moments = prepared(filled(Small()))
    places = {"images": "images", "/relu/0": "network/relu/0", "/softmax/0": "network/softmax/0"}
    for operator in places.values():
        put(body, "post", operator, 0, Switch())
    sites = tuple(
        QuantizerSite(f"post_hooks.{operator}__0.0", "activation", layer, (), multiplied=True)
        for layer, operator in places.items()
    )
    histograms, responses = derive(Student(body, SHAPE, sites, (), ()), moments, graph)
    assert set(histograms) == {"post_hooks.network/relu/0__0.0"}
    assert set(responses) == {"conv2/conv2d/0", "bare/conv2d/0"}
    (histogram,) = histograms.values()
    assert histogram.counts.sum().item() == pytest.approx(4 * 8 * 8)
    assert histogram.limit > 3 * filled(Small()).norm1.weight.abs().max()


class Inside(nn.Module):
    """Calls the layers of another module itself, so that all of them have one place."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Small()

    def forward(self, pixels: Tensor) -> Tensor:
        body = self.body
        low = F.relu(body.norm1(body.conv1(pixels)))
        return F.relu(body.norm2(body.conv2(low)))


def test_layers_that_are_called_from_outside_of_their_module_keep_their_own_moments() -> None:
    teacher = filled(Inside())
    teacher.body.norm1.bias.data.copy_(torch.arange(1.0, 5.0))
    teacher.body.norm2.bias.data.copy_(torch.arange(5.0, 9.0))
    _, _, moments = prepared(teacher)
    found = [each.mean.tolist() for each in moments.values()]
    assert found == [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
