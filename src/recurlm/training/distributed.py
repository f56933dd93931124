"""Training on several processes: which rows of a batch each reads, and what they tell each other.

A batch's rows belong to no process. Of W processes, rank r reads rows rB/W to (r + 1)B/W of each window and carries
their states. Every process draws random numbers for the whole batch, from one seed, and takes its rows' part. So data
and masks do not depend on W, and results differ by the order of float sums alone. Gradients are summed, so that weights
and optimizers are the same in all processes; Muon's matrices are orthogonalized in turns. torchrun starts the processes
and gives them RANK and WORLD_SIZE; gloo carries CPU tensors, NCCL those of GPUs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from recurlm.config import TrainConfig
from recurlm.errors import InputError
from recurlm.progress import say
from recurlm.variants.base import LockedDropout, State

LOST = 75  # exit status: another process is gone or silent (EX_TEMPFAIL of sysexits.h: to try again may help)
LISTEN_SECONDS = 1.0  # for the other processes' word that they still run
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


class LostPeerError(Exception):
    """Another process ended or does not answer: what torch says about it."""


@dataclass(frozen=True)
class Workers:
    """The processes of a training run, as one of them sees them; one process alone needs no torchrun."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Number among the processes of its machine, whose first one keeps the machine's checkpoint."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and logs."""
        return self.rank == 0

    def lanes(self, batch_size: int, rank: int | None = None) -> slice:
        """The rows of a batch that a process reads; by default this one."""
        rank = self.rank if rank is None else rank
        return slice(rank * batch_size // self.world, (rank + 1) * batch_size // self.world)

    def rows(self, batch: Tensor) -> Tensor:
        """This process's rows of something that has one for each row of the batch."""
        return batch[self.lanes(len(batch))]

    def owns(self, number: int) -> bool:
        """Whether number i of several things is this process's, of which each has every W-th."""
        return number % self.world == self.rank

    def join(self, model: nn.Module, batch_size: int) -> None:
        """Make a model one of equals: the first process's weights, and dropout masks of this process's rows.

        Raises:
            InputError: some process would have no row.
        """
        if batch_size < self.world:
            raise InputError(
                f"params.yaml: train.data.batch_size is {batch_size}, and {self.world} processes train, each with at "
                "least one row: raise it, or lower train.machine.processes"
            )
        if self.world == 1:
            return
        for module in model.modules():
            if isinstance(module, LockedDropout):
                module.lanes = (self.lanes(batch_size), batch_size)
        self.exchange([parameter.data for parameter in model.parameters()], owner=lambda number: 0)

    def sum_gradients(self, model: nn.Module, loss: Tensor) -> float:
        """Add up all processes' gradients, in place, and their losses."""
        if self.world == 1:
            return loss.item()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        # One message: many small ones would each wait for the network.
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.detach().view(1)])
        with _talk():
            dist.all_reduce(flat)
        *parts, total = torch.split(flat, [*(gradient.numel() for gradient in gradients), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return float(total)

    def exchange(self, tensors: Sequence[Tensor], owner: Callable[[int], int] | None = None) -> None:
        """Give all processes, in place, the tensors of their owners: by default number i is that of rank i mod W."""
        if self.world == 1:
            return
        with _talk():
            whole = [tensor.contiguous() for tensor in tensors]
            sent = [
                dist.broadcast(tensor, src=owner(number) if owner else number % self.world, async_op=True)
                for number, tensor in enumerate(whole)
            ]
            for work in sent:
                work.wait()
        for tensor, received in zip(tensors, whole, strict=True):
            if received is not tensor:
                tensor.copy_(received)

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set in any process."""
        if self.world == 1:
            return list(flags)
        return [bool(total) for total in self.sum(*map(float, flags))]

    def sum(self, *values: float) -> list[float]:
        """Each value, added up over the processes."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _talk():
            dist.all_reduce(total)
        return total.tolist()

    def gather(self, state: State, batch_size: int) -> State:
        """The states of all rows, from those of each process's own."""
        if self.world == 1:
            return state
        whole = {name: value.new_zeros(batch_size, *value.shape[1:]) for name, value in state.items()}
        for name, value in state.items():
            whole[name][self.lanes(batch_size)] = value
            parts = [whole[name][self.lanes(batch_size, rank)] for rank in range(self.world)]
            self.exchange(parts, owner=lambda number: number)
        return whole

    def furthest(self, content: bytes, steps: int) -> bytes:
        """The content of the process with the most steps, in all processes: they need no disk in common.

        Ranks go by address, so a machine that went away may come back as the first one, with an old checkpoint.
        """
        if self.world == 1:
            return content
        reached = self.sum(*(float(steps + 1) if rank == self.rank else 0.0 for rank in range(self.world)))
        owner = reached.index(max(reached))
        mine = self.rank == owner
        size = int(self.sum(float(len(content)) if mine else 0.0)[0])
        if size == 0:
            return b""
        message = torch.frombuffer(bytearray(content) if mine else bytearray(size), dtype=torch.uint8)
        self.exchange([message], owner=lambda number: owner)
        return message.numpy().tobytes()


ALONE = Workers()


@contextmanager
def _talk() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch has no narrower class for gloo's
        raise LostPeerError(" ".join(str(error).split())) from error


@contextmanager
def workers_of(config: TrainConfig) -> Iterator[Workers]:
    """This process among those that torchrun started; alone where it started none.

    What ends all processes is said by one of them. Where another process is gone or silent, the others end with status
    `LOST`.

    Raises:
        InputError: as the block does, in the first process that comes to it.
    """
    if not dist.is_torchelastic_launched():
        yield ALONE
        return
    _end_with_parent()
    local, here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if config.machine.threads is None:
        torch.set_num_threads(max(1, torch.get_num_threads() // here))
    backend = "gloo"
    if config.device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
        # NCCL refuses two processes on one GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.device_count() >= here else "gloo"
    patience = timedelta(seconds=config.machine.timeout_seconds)
    store, rank, world = next(rendezvous("env://", timeout=patience))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=patience)
    try:
        yield Workers(rank, world, local)
        dist.destroy_process_group()
    except InputError:
        if _says(store):
            raise
        sys.exit(2)
    except LostPeerError as error:
        silent = _silent(store, rank, world)
        if _says(store):
            who = f"process {', '.join(map(str, silent))} of 0 to {world - 1}" if silent else "another process"
            say(f"recurlm: {who} is gone, or gave no answer for {config.machine.timeout_seconds:g} seconds ({error})")
        # Not through the interpreter's end, which may wait for the process that is gone.
        sys.stderr.flush()
        os._exit(LOST)


def _says(store: Any) -> bool:
    """Whether nobody has said yet why the run ends; a lost store leaves that to everyone."""
    try:
        return bool(store.add("said", 1) == 1)
    except RuntimeError:
        return True


def _silent(store: Any, rank: int, world: int) -> list[int]:
    """The processes that do not say within a moment that they run."""
    try:
        store.set(f"runs/{rank}", "")
        time.sleep(LISTEN_SECONDS)
        return [other for other in range(world) if not store.check([f"runs/{other}"])]
    except RuntimeError:
        return []


def _end_with_parent() -> None:
    """Linux: a process that lost its agent to SIGKILL would train on, beside the one that is started again."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
