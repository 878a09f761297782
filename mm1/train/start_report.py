"""What a run states before its first step: ranks, layout, precision, parameters,
memory, the size of a step, and where it writes."""

import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mm1 import dist
from mm1.data.prepared.shards import read_manifest
from mm1.nn.initialization import own_part
from mm1.nn.model import Model
from mm1.storage.cache import cache_bytes, cache_folder
from mm1.storage.remote_path import RemotePath, as_path
from mm1.train.layout import ParallelLayout
from mm1.train.metrics import peak_process_memory
from mm1.train.optimizers import Optimizer
from mm1.train.origins import RANDOM

FSDP_AXES = ("dp_shard", "efsdp")
STATES: dict[type[torch.optim.Optimizer], int] = {
    torch.optim.AdamW: 2,
    torch.optim.Muon: 1,
}
"""fp32 numbers that an optimizer keeps for a parameter; others keep next to none."""


@dataclass(frozen=True, slots=True)
class StateMemory:
    """Bytes of this rank that do not depend on its batches: without activations."""

    weights: int
    """This rank's share, fp32."""
    gathered: int
    """Weights that are gathered at once, in the precision of the computation."""
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.weights + self.gathered + self.gradients + self.optimizer


def state_memory(
    model: Model, *, precision: str, keeps_gathered: bool, optimizer: int
) -> StateMemory:
    """Of a sharded model, and `optimizer` bytes. `keeps_gathered`: gradients are added
    up where they are and reduced once a step."""
    width = 2 if precision == "bf16" else 4
    units = [gathered_size(unit.parameters()) for unit in model.units()]
    everything = gathered_size(model.parameters())
    several = any(
        gathered_size([p]) > own_part(p).numel() for p in model.parameters()
    )
    # As in `mm1.train.memory`: what is in no unit, the unit at work and the next one.
    at_once = (
        everything - sum(units) + 2 * max(units, default=0)
        if several and not keeps_gathered
        else everything
    )
    trained = [p for p in model.parameters() if p.requires_grad]
    num_gradients = (
        gathered_size(trained) if keeps_gathered else _num_own(trained)
    )
    return StateMemory(
        weights=sum(own_part(p).nbytes for p in model.parameters()),
        gathered=width * min(at_once, everything),
        gradients=4 * num_gradients,
        optimizer=optimizer,
    )


def optimizer_memory(optimizer: Optimizer) -> int:
    """Bytes of the states that it will keep on this rank."""
    return sum(
        4 * STATES[kind] * _num_own(group["params"])
        for each in optimizer.optimizers
        for kind in STATES
        if isinstance(each, kind)
        for group in each.param_groups
    )


def _num_own(parameters: Iterable[Tensor]) -> int:
    return sum(own_part(p).numel() for p in parameters)


def gathered_size(parameters: Iterable[Tensor]) -> int:
    """Numbers that this rank holds while FSDP has gathered them."""
    total = 0
    for p in parameters:
        times = 1
        if isinstance(p, DTensor):
            names = p.device_mesh.mesh_dim_names or ()
            for axis, name in enumerate(names):
                if name in FSDP_AXES:
                    times = times * p.device_mesh.size(axis)
        total = total + times * own_part(p).numel()
    return total


def say_start(
    model: Model,
    layout: ParallelLayout,
    optimizer: Optimizer,
    config: Any,
    *,
    folder: Path,
    step: int,
    data: Mapping[str, Mapping[str, int | float]],
) -> None:
    """Prints some lines on rank 0. `config` is the run's, `data` what its loader says
    of each source. A collective: all ranks must call it."""
    hosts = Counter(dist.all_gather_objects(socket.gethostname()))
    lines = {
        "ranks": _ranks(layout, hosts),
        "precision": f"{config.precision} computation, fp32 weights"
        + (", float8 products" if config.float8 else ""),
        "parameters": ", ".join(
            _part(name, part) for name, part in model.parts().items()
        ),
        "starts from": _origins(model, config.init, step),
        "data": _data(data),
        "memory": _memory(model, layout, optimizer, config),
        "a step": _step(config.loader, layout, config.steps),
        "writes to": f"{folder}, a checkpoint every {config.checkpoint_every:,} steps;"
        f" it is at step {step:,} of {config.steps:,}",
    }
    if text := dist.on_rank_zero(lambda: cached_data(config.loader.folders())):
        lines["reads"] = text
    for name, text in lines.items():
        dist.say(f"  {name:<11} {text}")


def _ranks(layout: ParallelLayout, hosts: Counter[str]) -> str:
    axes = {
        "replicate": layout.replicate,
        "shard": layout.shard,
        "tensor": layout.tensor,
        "experts": layout.experts,
    }
    shares = " ".join(f"{name}={n}" for name, n in axes.items() if n > 1)
    names = ", ".join(f"{host} ({n})" for host, n in hosts.most_common(4)) + (
        f" and {len(hosts) - 4:,} more" if len(hosts) > 4 else ""
    )
    number = dist.world_size()
    return (
        f"{number:,} {'rank' if number == 1 else 'ranks'} on {_device(layout)}:"
        f" {names}" + (f"; layout {shares}" if shares else "")
    )


def _device(layout: ParallelLayout) -> str:
    """torch's name of the device; a Mac's GPU is seen, and not used."""
    if layout.device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(layout.device)})"
    number = torch.get_num_threads()
    threads = "1 thread" if number == 1 else f"{number} threads"
    mps = torch.backends.mps.is_available()
    unused = "; MPS is not used" if mps else ""
    return f"cpu ({threads}{unused})"


def _data(sources: Mapping[str, Mapping[str, int | float]]) -> str:
    return "; ".join(
        f"{name} {known['documents']:,} documents, {known['tokens']:,} tokens,"
        f" {known['images']:,} images"
        + (f", weight {known['weight']:g}" if "weight" in known else "")
        for name, known in sources.items()
    )


def _part(name: str, part: nn.Module) -> str:
    number = sum(p.numel() for p in part.parameters())
    trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
    if trained == number:
        return f"{name} {number:,}"
    if trained == 0:
        return f"{name} {number:,} (frozen)"
    return f"{name} {number:,} ({trained:,} of them trained)"


def _origins(model: Model, init: Mapping[str, str], step: int) -> str:
    if step:
        return f"its checkpoint of step {step:,}"
    runs = {part: init.get(part, RANDOM) for part in model.parts()}
    return ", ".join(
        f"{part} from {'scratch' if origin == RANDOM else origin}"
        for part, origin in runs.items()
    )


def _memory(
    model: Model, layout: ParallelLayout, optimizer: Optimizer, config: Any
) -> str:
    expected = state_memory(
        model,
        optimizer=optimizer_memory(optimizer),
        precision=config.precision,
        keeps_gathered=dist.world_size() > 1
        and not config.sync_each_micro_batch,
    )
    measured = (
        torch.cuda.max_memory_allocated(layout.device)
        if layout.device.type == "cuda"
        else peak_process_memory()
    )
    return (
        f"on each rank {_gib(expected.total)} GiB and activations: weights"
        f" {_gib(expected.weights)}, gathered {_gib(expected.gathered)}, gradients"
        f" {_gib(expected.gradients)}, optimizer {_gib(expected.optimizer)};"
        f" {_gib(measured)} at most so far"
    )


def cached_data(folders: Iterable[str]) -> str:
    """What is read from object stores through the cache, and whether that holds it;
    empty if nothing is."""
    far = [
        each for each in map(as_path, folders) if isinstance(each, RemotePath)
    ]
    if not far:
        return ""
    num_bytes = sum(
        entry["bytes"]
        for folder in far
        for split in read_manifest(folder)["splits"].values()
        for entry in (*split["shards"], *split["columns"].values())
    )
    text = (
        f"{num_bytes / 1e9:.2f} GB at object stores through {cache_folder()}, which may"
        f" hold {cache_bytes() / 1e9:g} GB"
    )
    if num_bytes > cache_bytes():
        text += (
            ": too little, as documents come in random order, and a shard is fetched"
            " again for each; raise MM1_CACHE_GB"
        )
    return text


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f}"


def _step(loader: Any, layout: ParallelLayout, steps: int) -> str:
    size = loader.batch_size
    length = getattr(loader, "sequence_length", None)
    if length is None:
        return (
            f"{size:,} examples on {layout.data_size:,} data ranks; {size * steps:,} in"
            f" all {steps:,} steps"
        )
    return (
        f"{size * length:,} tokens, {size:,} sequences of {length:,}, of which each of"
        f" {layout.data_size:,} data ranks computes {loader.micro_batch_size:,} at"
        f" once; {size * length * steps:,} tokens in all {steps:,} steps"
    )
