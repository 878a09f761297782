"""Ranks, devices and collectives.

A single process needs no launcher; several are started by `torchrun`, whose environment
variables are read here. There is always a process group, if only of one rank, so that
training has one code path.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from mm1.peers import Peers

Value = TypeVar("Value")

QUIET = "MM1_QUIET"
"""In the environment of a process that prints no progress, and of what it starts."""
VERBOSE = "MM1_VERBOSE"
LAUNCHER_PID = "MM1_LAUNCHER_PID"
"""In the environment of a process that must not outlive the one of this number."""
PR_SET_PDEATHSIG = 1
"""From <linux/prctl.h>."""
PATIENCE = 600.0
"""Seconds that ranks wait for one another."""
MARGIN = 15.0
"""Seconds between what ends a process with a line and what ends it without: gloo raises
an error in the main thread, NCCL aborts the process."""

peers: Peers | None = None
"""The other ranks; None where there are none."""


def start(patience: float = PATIENCE) -> torch.device:
    """Joins the process group (without a launcher: one of a single rank) and returns
    this rank's device. `patience` is in seconds."""
    if (
        not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
        & os.environ.keys()
    ):
        # The number of images differs from one micro-batch to the next, which leaves
        # holes in segments of a fixed size. Read when CUDA's allocator starts.
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    cuda = torch.cuda.is_available()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if cuda
        else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    _end_with_launcher()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        if "RANK" in os.environ:
            _join(backend, patience)
        else:
            dist.init_process_group(
                backend, store=dist.HashStore(), rank=0, world_size=1
            )
    return device


def _join(backend: str, patience: float) -> None:
    """Joins the ranks that a launcher has started."""
    global peers
    nccl = "nccl" in backend
    timeout = timedelta(seconds=patience + (4 * MARGIN if nccl else 0))
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # `torchrun` keeps its store when it starts ranks again, and in it the addresses
        # of those that are gone. Agents of several nodes do not count starts alike:
        # `mm1 launch` has a store made for each (TORCH_DISABLE_SHARE_RDZV_TCP_STORE).
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"attempt-{attempt}", store)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=timeout
    )
    if world_size > 1:
        peers = Peers(
            dist.PrefixStore("peers", store),
            rank=rank,
            world_size=world_size,
            patience=patience,
            hang_seconds=patience + (0 if nccl else MARGIN),
        )


def _end_with_launcher() -> None:
    """Has the kernel send SIGTERM, on which a run saves a checkpoint, when what started
    this process is killed: a rank of `torchrun` or a run of a study would train on with
    nobody to stop it, and keep its folder from being resumed."""
    launcher = os.environ.get(LAUNCHER_PID)
    if sys.platform != "linux" or not (
        launcher or "TORCHELASTIC_RUN_ID" in os.environ
    ):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if launcher and not Path("/proc", launcher).exists():
        signal.raise_signal(signal.SIGTERM)


def stop() -> None:
    """Leaves the process group."""
    global peers
    if peers is not None:
        peers.stop()
        peers = None
    if dist.is_initialized():
        dist.destroy_process_group()


def at(step: int, doing: str) -> None:
    """Notes where this rank stands, for the line that names a lost one."""
    if peers is not None:
        peers.at(step, doing)


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


_ranks_per_data_rank: int = 1


def set_ranks_per_data_rank(number: int) -> None:
    """Says how many neighbouring ranks read the same data: those of the tensor axis
    (`mm1.train.layout`)."""
    global _ranks_per_data_rank
    _ranks_per_data_rank = number


def data_rank() -> int:
    """Which share of the data this rank reads."""
    return rank() // _ranks_per_data_rank


def data_size() -> int:
    """Into how many shares the data are dealt."""
    return world_size() // _ranks_per_data_rank


def is_quiet() -> bool:
    """Is only to be printed what was asked for, and errors (`mm1 -q`)?"""
    return bool(os.environ.get(QUIET))


def is_verbose() -> bool:
    """Is more to be printed than usual (`mm1 -v`)?"""
    return bool(os.environ.get(VERBOSE))


def say(*words: object) -> None:
    """Prints on rank 0, to stderr: stdout is for results. A quiet process says
    nothing."""
    if rank() == 0 and not is_quiet():
        print(*words, file=sys.stderr, flush=True)


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sums over all ranks in place, without waiting for the device."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def is_first_of_data_rank() -> bool:
    """Of the ranks that read the same data, is this the one that counts?"""
    return rank() % _ranks_per_data_rank == 0


def sum_over_data_ranks(values: Tensor) -> Tensor:
    """Sums over all ranks in place; of ranks that read the same data, the first
    counts."""
    if not is_first_of_data_rank():
        values.zero_()
    return sum_over_ranks(values)


def barrier() -> None:
    """Waits until every rank has arrived."""
    if world_size() > 1:
        dist.barrier()


def from_first_rank(value: Value) -> Value:
    """Rank 0's value, which pickles, on every rank. A collective: all ranks must call
    it."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, device=torch.device("cpu"))
    return values[0]


def all_true(flag: bool) -> bool:
    """Is `flag` true on every rank? A collective: all ranks must call it."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes.item())


def on_rank_zero(function: Callable[[], Value]) -> Value:
    """Calls a function on rank 0 alone: what it returns or raises there, every rank
    returns or raises. A collective: all ranks must call it."""
    if world_size() == 1:
        return function()
    value: Any = None
    error: Exception | None = None
    if rank() == 0:
        try:
            value = function()
        except Exception as raised:  # the other ranks would wait for ever
            error = raised
    value, error = from_first_rank((value, error))
    if error is not None:
        raise error
    return value


def on_every_rank(function: Callable[[], None]) -> None:
    """Calls a function on every rank: what it raises on one of them, every rank raises.
    A collective: all ranks must call it."""
    error: Exception | None = None
    try:
        function()
    except Exception as raised:  # the other ranks would wait for ever
        error = raised
    for each in all_gather_objects(error):
        if each is not None:
            raise each


def all_gather_objects(local: Value) -> list[Value]:
    """The picklable objects of all ranks, in order of rank."""
    if world_size() == 1:
        return [local]
    objects: list[Any] = [None] * world_size()
    dist.all_gather_object(objects, local)
    return objects


def all_gather(local: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "all_B ..."]:
    """Concatenates the tensors of all ranks along the first axis, in order of rank;
    shapes must be equal."""
    if world_size() == 1:
        return local
    joined = local.new_empty(world_size() * len(local), *local.shape[1:])
    dist.all_gather(list(joined.chunk(world_size())), local.contiguous())
    return joined


class _AllGather(torch.autograd.Function):
    """The gradient of a rank's part is summed over ranks by reduce-scatter, so that no
    rank receives another's part."""

    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:  # type: ignore[override]
        return all_gather(local)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        parts = list(gradient.contiguous().chunk(world_size()))
        own = torch.empty_like(parts[0])
        # The list form: gloo and NCCL support it, and torch renames the tensor form
        # between 2.11 and 2.13.
        dist.reduce_scatter(own, parts)
        return own


def all_gather_with_grad(
    local: Float[Tensor, "B E"],
) -> Float[Tensor, "all_B E"]:
    """`all_gather` with gradients, which flow back to the rank that a row came from."""
    return local if world_size() == 1 else _AllGather.apply(local)  # type: ignore[no-any-return]
