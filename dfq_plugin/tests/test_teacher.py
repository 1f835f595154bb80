"""Facts are read from the network, and the network is given back as it came."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dfq_plugin.errors import InputError, UnsupportedModelError
from dfq_plugin.network_state import Snapshot
from dfq_plugin.teacher import ModelFacts, digest_of, pooled_features, read_facts
from dfq_plugin.testing import TinyNetwork, tiny_teacher

SHAPE = (3, 8, 8)


class OutOfOrder(nn.Module):
    """Defines its layers in another order than it runs them, one of them twice, one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5)
        self.late = nn.BatchNorm2d(3)
        self.early = nn.BatchNorm2d(3)
        self.unused = nn.BatchNorm2d(3)
        self.stateless = nn.BatchNorm2d(3, track_running_stats=False)
        self.gate = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        found = self.early(self.stateless(self.late(self.early(images))))
        pooled = found.mean(dim=(2, 3))
        logits: Tensor = self.head(self.gate(pooled))
        return logits


class Dictionary(nn.Module):
    """Gives a dictionary, as networks for segmentation do."""

    def __init__(self, function: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        return {"out": [self.function(images)]}


class TestReadFacts:
    def test_gives_shape_classes_and_normalisation(self) -> None:
        facts = read_facts(tiny_teacher(num_classes=7), [3, 8, 8], mean=[0.1, 0.2, 0.3], std=(1, 2, 3))
        assert facts.input_shape == SHAPE
        assert facts.num_classes == 7
        assert facts.mean == (0.1, 0.2, 0.3)
        assert facts.std == (1.0, 2.0, 3.0)

    def test_lists_batchnorm_layers_once_in_order_of_execution(self) -> None:
        assert read_facts(OutOfOrder(), SHAPE).batchnorm_layers == ("early", "late")

    def test_takes_last_linear_that_gives_the_classes_as_classifier(self) -> None:
        assert read_facts(OutOfOrder(), SHAPE).classifier == "head"

    def test_takes_the_later_of_two_layers_that_give_the_classes(self) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 4))
        assert read_facts(network, SHAPE).classifier == "3"

    def test_takes_convolution_with_kernel_1_as_classifier(self) -> None:
        network = nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        assert read_facts(network, SHAPE).classifier == "2"

    def test_has_no_classifier_when_no_such_layer_gives_the_classes(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        assert read_facts(network, SHAPE).classifier is None

    def test_gives_network_back_as_it_came(self) -> None:
        network = tiny_teacher().train()
        snapshot = Snapshot(network)
        read_facts(network, SHAPE)
        assert snapshot.restore() == []

    def test_works_in_half_precision(self) -> None:
        assert read_facts(tiny_teacher().to(torch.bfloat16), SHAPE).num_classes == 4

    def test_says_shape_and_reason_when_network_refuses_it(self) -> None:
        with pytest.raises(InputError, match=r"refuses an image of shape \(1, 8, 8\).*3 channels"):
            read_facts(tiny_teacher(), (1, 8, 8))

    @pytest.mark.parametrize("shape", [(3, 8), (1, 3, 8, 8), (3, 0, 8)])
    def test_refuses_shape_that_is_not_one_image(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"input_shape must be \(C, H, W\)"):
            read_facts(tiny_teacher(), shape)

    @pytest.mark.parametrize(
        ("network", "found"),
        [
            pytest.param(nn.Conv2d(3, 4, 1), r"\(1, 4, 8, 8\)", id="feature_map"),
            pytest.param(nn.Flatten(start_dim=0), r"\(192,\)", id="no_batch_axis"),
            pytest.param(nn.Sequential(nn.Flatten(2), nn.Flatten(0, 1)), r"\(3, 64\)", id="batch_axis_mixed"),
        ],
    )
    def test_network_that_gives_no_classes_says_what_it_gives(self, network: nn.Module, found: str) -> None:
        facts = read_facts(network, SHAPE)
        assert facts.num_classes == 0
        assert facts.classifier is None
        with pytest.raises(
            UnsupportedModelError, match=rf"^It needs a classifier, .* gives {found} for .*; do that\.$"
        ):
            facts.require_classes("It", "do that")

    def test_classifier_has_the_classes_that_are_required(self) -> None:
        read_facts(tiny_teacher(), SHAPE).require_classes("It", "do that")

    def test_network_that_gives_a_dictionary_says_so(self) -> None:
        assert read_facts(Dictionary(), SHAPE).output == "a dict"

    def test_numbers_that_are_not_finite_are_found_in_a_dictionary(self) -> None:
        with pytest.raises(InputError, match="numbers that are not finite for a black image"):
            read_facts(Dictionary(torch.log), SHAPE)

    @pytest.mark.parametrize(
        ("mean", "std", "told"),
        [
            pytest.param([0.5] * 3, None, "needed together", id="std_missing"),
            pytest.param([0.5], [0.5] * 3, "mean must have one value for each of the 3", id="too_short"),
            pytest.param([0.5] * 3, [0.5, 0.0, 0.5], "std must be above 0", id="std_zero"),
        ],
    )
    def test_refuses_normalisation_that_does_not_fit(
        self, mean: list[float], std: list[float] | None, told: str
    ) -> None:
        with pytest.raises(InputError, match=told):
            read_facts(tiny_teacher(), SHAPE, mean=mean, std=std)


def _nudge_weight(network: TinyNetwork) -> None:
    network.fc.bias.data[0] += 1e-6


def _nudge_statistic(network: TinyNetwork) -> None:
    network.bn1.get_buffer("running_var").mul_(1.001)


def _change_stride(network: TinyNetwork) -> None:
    weight = network.conv1.weight
    network.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2, bias=False)
    network.conv1.weight = weight


def _change_activation(network: TinyNetwork) -> None:
    network.add_module("relu1", nn.ReLU6())


class TestDigest:
    def test_is_the_same_for_equal_networks_and_in_every_mode(self) -> None:
        assert digest_of(tiny_teacher()) == digest_of(tiny_teacher().train())

    @pytest.mark.parametrize("change", [_nudge_weight, _nudge_statistic, _change_stride, _change_activation])
    def test_differs_when_anything_that_counts_is_changed(self, change: Callable[[TinyNetwork], None]) -> None:
        network = tiny_teacher()
        change(network)
        assert digest_of(network) != digest_of(tiny_teacher())

    def test_does_not_depend_on_memory_addresses(self) -> None:
        class Shows(nn.Module):
            def extra_repr(self) -> str:
                return object.__repr__(self)

        one, other = Shows(), Shows()
        assert one.extra_repr() != other.extra_repr()
        assert digest_of(one) == digest_of(other)

    def test_takes_networks_with_scalar_and_half_precision_tensors(self) -> None:
        network = nn.Linear(2, 2).to(torch.bfloat16)
        network.register_buffer("scale", torch.tensor(2.0))
        before = digest_of(network)
        network.get_buffer("scale").add_(1.0)
        assert digest_of(network) != before


class TestPooledFeatures:
    def test_gives_the_input_of_the_classifier_with_gradients(self) -> None:
        network = tiny_teacher()
        images = torch.ones(2, *SHAPE, requires_grad=True)
        with pooled_features(network, read_facts(network, SHAPE)) as features:
            logits = network(images)
            pooled = features()
        head = network.get_submodule("fc")
        assert pooled.shape == (2, 16)
        assert torch.equal(head(pooled), logits)
        assert torch.autograd.grad(pooled.sum(), images)[0].abs().sum() > 0

    def test_flattens_the_input_of_a_convolution(self) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pooled_features(network, read_facts(network, SHAPE)) as features:
            network(torch.ones(2, *SHAPE))
            assert features().shape == (2, 3 * 64)

    def test_gives_the_latest_pass_and_takes_its_hook_away(self) -> None:
        network = tiny_teacher()
        snapshot = Snapshot(network)
        with pooled_features(network, read_facts(network, SHAPE)) as features:
            network(torch.ones(2, *SHAPE))
            network(torch.ones(1, *SHAPE))
            assert len(features()) == 1
        assert snapshot.restore() == []

    def test_asks_for_a_pass_first(self) -> None:
        network = tiny_teacher()
        with pooled_features(network, read_facts(network, SHAPE)) as features, pytest.raises(InputError, match="Run"):
            features()

    def test_refuses_teacher_without_classifier(self) -> None:
        network = nn.Flatten()
        facts = read_facts(network, SHAPE)
        with pytest.raises(UnsupportedModelError, match="no pooled feature"), pooled_features(network, facts):
            pass


class TestPixelRange:
    def test_is_that_of_black_and_white_pixels_over_all_channels(self) -> None:
        facts = ModelFacts((2, 8, 8), 4, (0.5, 0.2), (0.5, 0.1), (), None, "")
        assert facts.pixel_range == pytest.approx((-2.0, 8.0))

    def test_is_none_when_the_normalisation_is_not_known(self) -> None:
        assert ModelFacts((2, 8, 8), 4, None, None, (), None, "").pixel_range is None
