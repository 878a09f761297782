"""Gradient accumulation: the backward passes of a step's micro-batches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from mm1 import dist
from mm1.batch import Batch, move
from mm1.nn.model import Losses, Model
from mm1.train.shutdown import GracefulShutdown, StopRequested


def count_targets(
    micro_batches: Sequence[Batch], shutdown: GracefulShutdown
) -> Tensor:
    """Targets of all ranks, a number on the host. Each step starts with this, so it
    also tells every rank of a signal that one has had; every rank must call it.

    Raises:
        StopRequested: there was one.
    """
    own = (
        sum(batch.num_targets for batch in micro_batches)
        if dist.is_first_of_data_rank()
        else 0
    )
    totals = dist.sum_over_ranks(
        torch.tensor([float(own), float(shutdown.requested)])
    )
    if totals[1] > 0:
        raise StopRequested
    return totals[0]


def accumulate_gradients(
    model: Model,
    micro_batches: Sequence[Batch],
    device: torch.device,
    *,
    num_targets: Tensor,
    sync_each_micro_batch: bool,
) -> Iterator[tuple[Batch, Losses]]:
    """Runs forward and backward, yielding each micro-batch and its losses.

    Every target weighs the same, whatever micro-batch or rank it is in: `num_targets`
    are those of all.
    """
    # FSDP2 averages gradients over the ranks that read different data. All on the
    # host: nothing waits for a device.
    scale = float(dist.data_size() / num_targets.clamp(min=1.0))
    for batch in micro_batches:
        set_gradient_sync(
            model,
            is_last=batch is micro_batches[-1],
            sync_each_micro_batch=sync_each_micro_batch,
        )
        losses = model(move(batch, device, non_blocking=True))
        (losses.objective * scale).backward()
        yield batch, losses


def set_gradient_sync(
    model: Model, *, is_last: bool, sync_each_micro_batch: bool
) -> None:
    """Before each micro-batch: whether its backward pass ends in reduced gradients and
    sharded weights.

    Without, gradients are added up in fp32 where they are, and weights stay gathered
    and cast: less traffic for 6 bytes a parameter. One rank, which holds all of them
    anyway, always does so until the last micro-batch; the sums are the same to the bit.
    """
    assert isinstance(model, FSDPModule)
    ends = is_last or (sync_each_micro_batch and dist.data_size() > 1)
    model.set_requires_gradient_sync(ends)
    model.set_reshard_after_backward(ends)
