"""GPU memory of one rank on many, by recipe and layout, without a GPU.

    python benchmarks/memory_at_scale.py [pretrain_30b ...] [--world-sizes 8 64 256]
        [--mode full] [--no-activations] [--all]

Rank 0 is started under a fake process group of so many ranks: the model is built on the
meta device and sharded by the product's own code, and every tensor has a shape but no
values. A row for each layout that fits, or with `--all` for every one, in GB (10^9
bytes):

    share     this rank's weights in fp32
    start     traced: the most that lives while its weights are initialised
    step      weights, gathered units, gradients and optimizer states by the real
              placements of all parameters; activations and workspace as estimated by
              `mm1.train.memory` on one rank. Not counted: buffers of an exchange of
              tokens between experts, CUDA, NCCL and fragments (leave 5 GB). Under
              tensor parallelism activations are taken as if each rank had all of them
    save      between steps, while a checkpoint is copied: weights and optimizer states;
              as much again is taken of the host's memory, in `host`
    end       weights, optimizer states, and the largest tensor, which is gathered
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from mm1.catalog import recipe
from mm1.config import ConfigError
from mm1.nn import initialization
from mm1.nn.initialization import initialize_weights, own_part
from mm1.train.build_model import build_on_meta
from mm1.train.layout import ParallelLayout
from mm1.train.memory import LiveBytes, activation_memory
from mm1.train.parallel import parallelize
from mm1.train.start_report import gathered_size, state_memory
from mm1.train.trainer import Trainer

RECIPES = ("pretrain_30b", "pretrain_3b_moe", "pretrain_7b_moe")
VOCABULARY = 32_768
CPU = torch.device("cpu")
NODE = 8
"""GPUs in a node."""
SIZES = (80, 141)
"""GB of an H100 and of an H200."""
RESERVE = 5


class Memory(NamedTuple):
    """GB on rank 0."""

    share: float
    start: float
    step: float
    save: float
    host: float
    end: float

    def fits(self, size: int) -> bool:
        peak = max(self.start, self.step, self.save, self.end)
        return peak + RESERVE <= size


def layouts(
    world_size: int, *, experts: int | None
) -> Iterator[ParallelLayout.Config]:
    """Flat, hybrid over nodes; with experts on ranks of their own, or tensor
    parallelism inside a node."""
    shards = {world_size, NODE, min(64, world_size)}
    for shard in sorted(shards):
        data = ParallelLayout.Config(replicate=world_size // shard, shard=shard)
        yield data
        if experts is not None:
            yield replace(data, experts=min(experts, world_size))
    if experts is None:
        yield ParallelLayout.Config(tensor=NODE, shard=world_size // NODE)


def sharded_model(config: Trainer.Config, layout: ParallelLayout.Config) -> Any:
    """Rank 0's, on the meta device."""
    model = build_on_meta(
        config.model, vocab_size=VOCABULARY, lora=None, frozen=config.frozen
    )
    parallelize(
        model,
        layout.build(CPU, config.model),
        precision=config.precision,
        activation_checkpointing="none",
        compile_units=False,
    )
    return model


def start_peak(model: Any) -> int:
    """Bytes that live at once while the weights of rank 0 are initialised. What is
    drawn has its real shape, but is not drawn."""
    initialization._reset = _undrawn
    with LiveBytes() as live:
        model.to_empty(device="meta")
        initialize_weights(model, 0)
    return live.peak


def _undrawn(
    module: Any, name: str, path: str, shape: tuple[int, ...]
) -> Tensor:
    given = module._parameters.get(name)
    given = module._buffers[name] if given is None else given
    return torch.empty(shape, dtype=given.dtype, device="meta")


def measure(
    config: Trainer.Config,
    layout: ParallelLayout.Config,
    world_size: int,
    activations: int,
) -> Memory:
    """Of rank 0. `activations` in bytes."""
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=0, world_size=world_size
    )
    try:
        model = sharded_model(config, layout)
        start = start_peak(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        state = state_memory(
            model,
            precision=config.precision,
            keeps_gathered=not config.sync_each_micro_batch,
            optimizer=8 * sum(own_part(p).numel() for p in trained),
        )
        unit = max(gathered_size(unit.parameters()) for unit in model.units())
        kept = state.weights + state.optimizer
        largest = max(p.numel() * p.itemsize for p in model.parameters())
    finally:
        torch.distributed.destroy_process_group()
    # A unit's gradients, copied for the reduction and reduced: as in
    # `mm1.train.memory`.
    width = 2 if config.precision == "bf16" else 4
    step = state.total + activations + (width + 8) * unit
    return Memory(
        *(
            x / 1e9
            for x in (state.weights, start, step, kept, kept, kept + largest)
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipes", nargs="*", default=list(RECIPES))
    parser.add_argument(
        "--world-sizes", nargs="+", type=int, default=[8, 64, 256]
    )
    parser.add_argument("--mode", default="full")
    parser.add_argument("--no-activations", action="store_true")
    parser.add_argument("--all", action="store_true")
    arguments = parser.parse_args()
    columns = ("recipe", "ranks", "layout", *Memory._fields, "fits")
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns), flush=True)
    for name in arguments.recipes:
        config: Any = recipe(name)
        config.activation_checkpointing = arguments.mode
        activations = 0
        if not arguments.no_activations:
            asked = activation_memory(config, vocab_size=VOCABULARY)
            activations = asked.kept + asked.beside
        for world_size in arguments.world_sizes:
            _print_rows(name, config, world_size, activations, arguments.all)


def _print_rows(
    name: str, config: Any, world_size: int, activations: int, every: bool
) -> None:
    experts = config.model.decoder.experts
    number = None if experts is None else experts.num_experts
    for layout in layouts(world_size, experts=number):
        axes = {
            axis: getattr(layout, axis)
            for axis in ("replicate", "shard", "tensor", "experts")
        }
        text = " ".join(f"{axis}={n}" for axis, n in axes.items() if n > 1)
        try:
            memory = measure(config, layout, world_size, activations)
        except ConfigError as error:
            print(f"{name} {text}: {error}", flush=True)
            continue
        fits = next((f"{size} GB" for size in SIZES if memory.fits(size)), "")
        if fits or every:
            figures = " | ".join(f"{x:.1f}" for x in memory)
            print(
                f"| `{name}` | {world_size} | {text} | {figures} | {fits} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
