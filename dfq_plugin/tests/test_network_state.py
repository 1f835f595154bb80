"""Networks are given back as they came."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dfq_plugin.network_state import Snapshot, frozen, untouched_random_state
from dfq_plugin.testing import tiny_teacher
from dfq_plugin.testing.contract import _draw, _global_random_state


def test_frozen_gives_eval_mode_without_gradients_and_puts_mixed_modes_and_flags_back() -> None:
    network = tiny_teacher().train()
    bn1, fc = network.get_submodule("bn1"), network.get_submodule("fc")
    bn1.eval()
    fc.get_parameter("bias").requires_grad_(False)
    modes = [module.training for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    with frozen(network):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == flags


def test_frozen_puts_state_back_when_body_raises() -> None:
    network = tiny_teacher().train()
    with pytest.raises(KeyError), frozen(network):
        raise KeyError
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_untouched_random_state_gives_back_all_three_generators() -> None:
    with _global_random_state(5):
        expected = _draw()
    with _global_random_state(5):
        with untouched_random_state(nn.Identity()):
            drawn = _draw()
        assert drawn == expected
        assert _draw() == expected


def _train(network: nn.Module) -> None:
    network.get_submodule("bn1").train()


def _hook(network: nn.Module) -> None:
    network.get_submodule("fc").register_forward_hook(lambda *_: None)


def _pre_hook(network: nn.Module) -> None:
    network.register_forward_pre_hook(lambda *_: None)


def _backward_hook(network: nn.Module) -> None:
    network.get_submodule("fc").register_full_backward_hook(lambda *_: None)


def _flag(network: nn.Module) -> None:
    parameter = network.get_submodule("fc").get_parameter("bias")
    parameter.requires_grad_(not parameter.requires_grad)


def _grad(network: nn.Module) -> None:
    bias = network.get_submodule("fc").get_parameter("bias")
    bias.grad = torch.ones_like(bias)


def _weight(network: nn.Module) -> None:
    network.get_submodule("fc").get_parameter("bias").data.add_(1.0)


def _buffer(network: nn.Module) -> None:
    network.get_submodule("bn2").get_buffer("num_batches_tracked").add_(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(_train, "training mode of 'bn1'", id="mode"),
        pytest.param(_hook, "hooks of 'fc' (0 before, 1 after)", id="hook"),
        pytest.param(_pre_hook, "hooks of ''", id="pre_hook"),
        pytest.param(_backward_hook, "hooks of 'fc'", id="backward_hook"),
        pytest.param(_flag, "requires_grad of 'fc.bias'", id="flag"),
        pytest.param(_grad, "grad of 'fc.bias'", id="grad"),
        pytest.param(_weight, "values of 'fc.bias'", id="weight"),
        pytest.param(_buffer, "values of 'bn2.num_batches_tracked'", id="buffer"),
    ],
)
def test_restore_names_and_undoes_the_change(change: Callable[[nn.Module], None], named: str) -> None:
    network = tiny_teacher()
    snapshot = Snapshot(network)
    change(network)
    (told,) = snapshot.restore()
    assert told.startswith(named)
    assert snapshot.restore() == []


def test_restore_says_nothing_when_a_buffer_holds_nan() -> None:
    network = nn.BatchNorm2d(2)
    network.get_buffer("running_mean").fill_(float("nan"))
    assert Snapshot(network).restore() == []


def test_restore_names_layers_that_were_added() -> None:
    network = nn.Sequential(nn.ReLU())
    snapshot = Snapshot(network)
    network.append(nn.ReLU())
    assert snapshot.restore() == ["layers ['1'] added or removed"]


def test_restore_keeps_hooks_that_were_there_before() -> None:
    network = nn.Sequential(nn.ReLU())
    calls: list[int] = []
    network[0].register_forward_hook(lambda *_: calls.append(1))
    snapshot = Snapshot(network)
    network[0].register_forward_hook(lambda *_: calls.append(2))
    snapshot.restore()
    network(torch.zeros(1))
    assert calls == [1]
