"""Processes of one job: what one of them does, and what a process that is alone does not."""

from __future__ import annotations

import builtins
import signal
import socket
from collections.abc import Mapping
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from dfq_plugin import processes as module
from dfq_plugin.batches import Batch
from dfq_plugin.errors import ConfigError, ProcessLostError
from dfq_plugin.finetuning import loop
from dfq_plugin.processes import ALONE, Processes, joined, launched, processes, speaks


def test_pieces_of_work_go_round() -> None:
    assert [[Processes(rank, 3).takes(index) for index in range(4)] for rank in range(3)] == [
        [True, False, False, True],
        [False, True, False, False],
        [False, False, True, False],
    ]


def test_alone_everything_is_as_it_was() -> None:
    tensor = torch.tensor([1.0, 2.0])
    ALONE.meet()
    ALONE.average([tensor])
    ALONE.copy_from_main([tensor])
    assert ALONE.takes(7)
    assert ALONE.agree(on=True)
    assert not ALONE.agree(on=False)
    assert ALONE.hand_out({"a": tensor}, 5) == {"a": tensor}
    assert tensor.tolist() == [1.0, 2.0]


def test_work_is_shared_in_the_block_only() -> None:
    crew = Processes(1, 2)
    assert processes() is ALONE
    with crew.sharing():
        assert processes() is crew
    assert processes() is ALONE


@pytest.mark.parametrize(("said", "count"), [("4", 4), ("", 1), ("0", 1), ("many", 1), ("-2", 1)])
def test_count_comes_from_the_launcher(monkeypatch: pytest.MonkeyPatch, said: str, count: int) -> None:
    monkeypatch.setenv("WORLD_SIZE", said)
    assert launched() == count


def test_without_a_launcher_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as crew:
        assert crew is ALONE


@pytest.mark.parametrize(("count", "rank", "expected"), [("1", "3", True), ("2", "0", True), ("2", "1", False)])
def test_only_the_main_process_prints(monkeypatch: pytest.MonkeyPatch, count: str, rank: str, expected: bool) -> None:
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.setenv("RANK", rank)
    assert speaks() is expected


def test_several_without_accelerate_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *arguments: Any) -> ModuleType:
        if name == "accelerate":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"2 processes, which needs accelerate: `pip install"), joined():
        pass


def test_lost_connection_is_told_as_a_lost_process() -> None:
    with (
        pytest.raises(ProcessLostError, match=r"has ended.*\(peer closed\).*same command again"),
        module._loss_explained(),
    ):
        raise RuntimeError(*["peer closed\nmore"])


def test_a_stop_by_the_launcher_is_told_and_the_handler_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ProcessLostError, match="launcher stops"), module._stopping_explained():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


class _Hooks:
    """A loss that is the mean of w times the images: its gradient is the mean image."""

    def __init__(self) -> None:
        self.weight = torch.zeros((), requires_grad=True)

    def loss(self, batch: Batch) -> Tensor:
        return (self.weight * batch.images).mean()


@pytest.mark.parametrize("images", [[1.0, 2.0, 6.0], [1.0, 2.0, 3.0, 4.0], [5.0]])
def test_mean_of_the_parts_gradients_is_that_of_the_batch(images: list[float]) -> None:
    batch, gradients = Batch(torch.tensor(images)), []
    for rank in range(2):
        hooks: Any = _Hooks()
        loop._backward(hooks, batch, Processes(rank, 2))
        gradients.append(hooks.weight.grad.item())
    assert sum(gradients) / 2 == pytest.approx(sum(images) / len(images))


def test_part_of_a_batch_takes_its_labels_along() -> None:
    soft = torch.eye(3)
    part = Batch(torch.arange(3.0), torch.tensor([4, 5, 6]), soft).part(1, 3)
    assert (part.images.tolist(), part.targets.tolist()) == ([1.0, 2.0], soft[1:].tolist())
    found: Mapping[str, Any] = vars(part)
    assert found["labels"].tolist() == [5, 6]
    assert Batch(torch.arange(3.0)).part(0, 1).labels is None


def test_a_meeting_where_nobody_comes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:  # a port that is taken and does not listen
        nobody.bind(("127.0.0.1", 0))
        port = str(nobody.getsockname()[1])
        for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(module, "MEETING", timedelta(seconds=1))
        found = rf"2 processes of this job did not meet at 127.0.0.1:{port} \(.+\)\. Start it by"
        with pytest.raises(ProcessLostError, match=found), joined():
            pass


def test_a_launcher_that_names_no_place_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProcessLostError, match=r"did not meet at \(no MASTER_ADDR\):\(no MASTER_PORT\)"), joined():
        pass
