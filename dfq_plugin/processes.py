"""The processes of one job, where a launcher has started several: what each does, and how they hand on what they have.

``accelerate launch`` or ``torchrun`` starts them and tells each its number; ``accelerate`` connects them. What they
share goes over the connection as safetensors, never as pickle; the folder of the cache and the output folder must be
the same for all.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from dfq_plugin.errors import ConfigError, ProcessLostError

if TYPE_CHECKING:
    from torch import Tensor

COUNT, RANK = "WORLD_SIZE", "RANK"  # set by torchrun, which accelerate launch runs underneath
# One process may reconstruct for hours while the others wait; a dead one is noticed at once.
PATIENCE = timedelta(days=7)
MEETING = timedelta(minutes=10)  # for all to have started; one that looks in the wrong place would wait for ever

_current: ContextVar[Processes | None] = ContextVar("dfq_plugin_processes", default=None)
KEPT = "Finished batches and epochs are kept: run the same command again."


@dataclass(frozen=True)
class Processes:
    """This process among those of its job; without a launcher it is the only one, and nothing here does anything.

    Attributes:
        rank: its number, counted from 0; process 0 is the main one, which writes the files.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def takes(self, index: int) -> bool:
        """Whether this process does a piece of work; they take turns."""
        return index % self.count == self.rank

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Share the work in a block, which all processes enter and in which they ask for the same."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def meet(self) -> None:
        """Wait until all processes have come here.

        Raises:
            ProcessLostError: one of them has ended.
        """
        if self.count > 1:
            import torch  # noqa: PLC0415 - seconds; a single process never waits for it here

            self.average([torch.zeros(1)])

    def hand_out(self, tensors: Mapping[str, Tensor] | None, index: int) -> dict[str, Tensor]:
        """Give every process what the one that takes ``index`` has.

        Args:
            tensors: by name, on the CPU; None in all other processes.
            index: of the piece of work.

        Raises:
            ProcessLostError: one of the processes has ended.
        """
        if self.count == 1:
            return dict(tensors or {})
        import torch  # noqa: PLC0415
        from safetensors.torch import load, save  # noqa: PLC0415

        owner = index % self.count
        packed = bytearray(save(dict(tensors or {}))) if self.takes(index) else bytearray()
        size = self._broadcast(torch.tensor([len(packed)]), owner)
        content = torch.frombuffer(packed, dtype=torch.uint8) if packed else torch.empty(int(size), dtype=torch.uint8)
        received = self._broadcast(content, owner)
        return dict(tensors) if tensors is not None else load(received.numpy().tobytes())

    def agree(self, *, on: bool) -> bool:
        """Tell every process what the main one has found out.

        Args:
            on: what counts of the main process; of the others it does not matter.
        """
        if self.count == 1:
            return on
        import torch  # noqa: PLC0415

        return bool(self._broadcast(torch.tensor([int(on)]), 0))

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with what they are in the main process."""
        if self.count > 1:
            for tensor in tensors:
                tensor.data.copy_(self._broadcast(tensor.data.clone().contiguous(), 0))

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace every tensor by its mean over the processes, in place.

        Raises:
            ProcessLostError: one of the processes has ended.
        """
        if self.count == 1:
            return
        import torch  # noqa: PLC0415

        found = list(tensors)
        flat = torch.cat([tensor.reshape(-1) for tensor in found])  # one message for all
        with _loss_explained():
            torch.distributed.all_reduce(flat)
        flat /= self.count
        for tensor, mean in zip(found, flat.split([tensor.numel() for tensor in found]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @staticmethod
    def _broadcast(tensor: Tensor, owner: int) -> Tensor:
        import torch  # noqa: PLC0415

        with _loss_explained():
            torch.distributed.broadcast(tensor, owner)
        return tensor


ALONE = Processes()


def processes() -> Processes:
    """The processes that share the work in hand: only this one, outside ``sharing``."""
    return _current.get() or ALONE


def launched() -> int:
    """How many processes a launcher has started."""
    count = os.environ.get(COUNT, "1")
    return int(count) if count.isdecimal() and int(count) else 1


def speaks() -> bool:
    """Whether this process is the one of its job that prints results."""
    return launched() == 1 or os.environ.get(RANK, "0") == "0"


@contextmanager
def joined() -> Iterator[Processes]:
    """Be one of the processes that the launcher has started, while the block runs.

    Raises:
        ConfigError: there are several, and ``accelerate`` is not installed.
        ProcessLostError: one of them has ended, or they do not find each other.
    """
    if launched() == 1:
        yield ALONE
        return
    try:
        from accelerate import PartialState  # noqa: PLC0415 - an extra
    except ImportError as error:
        msg = f"This job was started as {launched()} processes, which needs accelerate: "
        msg += "`pip install 'dfq-plugin[distributed]'`, or start it without the launcher."
        raise ConfigError(msg) from error
    with ExitStack() as stack:
        stack.enter_context(_stopping_explained())
        _connect()
        with _loss_explained():
            state = PartialState(cpu=True, timeout=PATIENCE)
        crew = Processes(state.process_index, state.num_processes)
        if not crew.is_main:
            stack.enter_context(_quiet())
        yield crew


def _connect() -> None:
    """Find the other processes where the launcher says that they meet; accelerate goes on with what is connected."""
    import torch  # noqa: PLC0415
    from torch.distributed.rendezvous import rendezvous  # noqa: PLC0415

    if torch.distributed.is_initialized():
        return
    try:
        store, rank, count = next(rendezvous("env://", timeout=MEETING))
    except (RuntimeError, ValueError) as error:
        place = ":".join(os.environ.get(name, f"(no {name})") for name in ("MASTER_ADDR", "MASTER_PORT"))
        msg = f"The {launched()} processes of this job did not meet at {place} "
        msg += f"({str(error).splitlines()[0]}). Start it by accelerate launch or torchrun, and see that this machine "
        msg += "reaches that address."
        raise ProcessLostError(msg) from error
    with _loss_explained():
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=PATIENCE)


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars, and no log lines but warnings: the main process tells how far the job has come."""
    from dfq_plugin.progress import watch_loops  # noqa: PLC0415 - its display is for those that show one

    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with watch_loops():
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def _stopping_explained() -> Iterator[None]:
    """Leave in good order when the launcher stops this process, which it does as soon as another one has ended."""

    def stop(*_: object) -> None:
        msg = f"The launcher stops this process: another one of the job has ended. {KEPT}"
        raise ProcessLostError(msg)

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _loss_explained() -> Iterator[None]:
    """Turn what the connection says when its other end is gone into a message about the job."""
    try:
        yield
    except RuntimeError as error:
        msg = f"Another process of this job has ended, so this one stops ({str(error).splitlines()[0]}). {KEPT}"
        raise ProcessLostError(msg) from error
