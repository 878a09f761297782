"""A plan as text and as JSON."""

from collections.abc import Sequence
from typing import Any

import torch

from mm1.batch import PackedBatch
from mm1.plan.plan import (
    CHECKPOINT_BYTES,
    DECODE_SECONDS,
    GIB,
    IMAGE_BYTES,
    TOKEN_BYTES,
    Outcome,
    Planner,
    needed,
)
from mm1.plan.step_time import SAVE_BANDWIDTH

LINKS = "gpu_link and node_link are bytes/s a GPU sends, in and out of its node"


def as_dict(planner: Planner, outcome: Outcome) -> dict[str, Any]:
    """Everything that `as_text` says, in numbers: bytes, seconds, and money where there
    is a price."""
    steps = planner.config.steps
    seconds = steps * outcome.step_seconds
    hours = seconds * planner.num_ranks / 3600
    flops = _step_flops(planner)
    peak = planner.gpu.peak_flops * planner.num_ranks
    price = planner.assumptions.price
    images = _images_per_step(planner)
    tokens = _tokens_per_step(planner)
    return {
        "gpu": planner.gpu.name,
        "nodes": planner.nodes,
        "gpus_per_node": planner.gpus_per_node,
        "setting": outcome.setting.overrides(),
        "layout": str(outcome.setting.shape),
        "parameters": planner.num_params,
        "memory": outcome.memory,
        "memory_total": outcome.total_memory,
        "memory_limit": planner.memory_limit,
        "fits": outcome.total_memory <= planner.memory_limit,
        "micro_batches_per_step": outcome.num_micro_batches,
        "units": [
            {
                "name": unit.name,
                "count": unit.count,
                "computes": unit.computes,
                "moves": unit.moves,
                "waits": unit.waits,
            }
            for unit in outcome.units
        ],
        "straggling": outcome.straggling,
        "step_seconds": outcome.step_seconds,
        "mfu": flops / outcome.step_seconds / peak,
        "steps": steps,
        "days": seconds / 86400,
        "gpu_hours": hours,
        "cost": None if price is None else price * hours,
        "checkpoint_bytes": CHECKPOINT_BYTES * planner.num_params,
        "checkpoints_bytes": CHECKPOINT_BYTES
        * planner.num_params
        * planner.config.keep_checkpoints,
        "loader_cores_per_node": images
        * DECODE_SECONDS
        / outcome.step_seconds
        / planner.nodes,
        "loader_bytes_per_second_per_node": (
            images * IMAGE_BYTES + tokens * TOKEN_BYTES
        )
        / outcome.step_seconds
        / planner.nodes,
    }


def _tokens_per_step(planner: Planner) -> int:
    loader: Any = planner.config.loader
    return loader.batch_size * loader.sequence_length


def _images_per_step(planner: Planner) -> float:
    loader: Any = planner.config.loader
    return loader.batch_size * planner.images_per_sequence


def _step_flops(planner: Planner) -> float:
    """Forward and backward, nothing recomputed."""
    loader: Any = planner.config.loader
    work = planner.work(1)
    numbers = torch.empty(work.num_tokens, dtype=torch.int64, device="meta")
    ends = len(work.documents) + 1
    slots = (work.num_images, planner.model.tokens_per_image)
    batch = PackedBatch(
        tokens=numbers,
        targets=numbers,
        positions=numbers,
        sources=numbers,
        cu_seqlens=torch.empty(ends, dtype=torch.int32, device="meta"),
        images=torch.empty(
            work.num_images, 3, 1, 1, dtype=torch.uint8, device="meta"
        ),
        slots=torch.empty(slots, dtype=torch.int64, device="meta"),
        max_seqlen=max(work.documents),
        num_targets=work.num_targets,
        num_padding=0,
        num_pairs=work.num_pairs,
        source_names=("data",),
    )
    return float(loader.batch_size * sum(planner.model.flops(batch).values()))


def as_text(planner: Planner, outcome: Outcome) -> str:
    """The plan for people."""
    facts = as_dict(planner, outcome)
    lines = [
        f"{facts['parameters'] / 1e9:,.2f}B parameters on {planner.nodes} x"
        f" {planner.gpus_per_node} {planner.gpu.name}",
        f"  {facts['setting']}  ({facts['layout']})",
        "",
        *_memory_lines(outcome, planner),
        "",
        *_time_lines(outcome),
        "",
        *_run_lines(facts),
        "",
        *_loader_lines(facts),
        "",
        *assumptions(planner),
    ]
    lacks = needed(outcome, planner)
    return "\n".join([*lines, *([""] if lacks else []), *lacks])


def _memory_lines(outcome: Outcome, planner: Planner) -> list[str]:
    head = f"memory on each rank, of {planner.memory_limit / GIB:,.1f} GiB"
    return [
        head,
        *(
            f"  {name:20} {size / GIB:8,.1f} GiB"
            for name, size in outcome.memory.items()
        ),
        f"  {'together':20} {outcome.total_memory / GIB:8,.1f} GiB",
    ]


def _time_lines(outcome: Outcome) -> list[str]:
    lines = [
        f"a micro-batch, of {outcome.num_micro_batches} a step: ms",
        f"  {'units':24} {'computes':>10} {'moves':>10} {'waits':>10} {'all':>10}",
    ]
    for unit in outcome.units:
        times = (unit.computes, unit.moves, unit.waits, unit.total)
        name = f"{unit.count} {unit.name}" if unit.count > 1 else unit.name
        lines.append(
            f"  {name:24} " + " ".join(f"{1e3 * t:10,.1f}" for t in times)
        )
    return lines


def _run_lines(facts: dict[str, Any]) -> list[str]:
    cost = facts["cost"]
    return [
        f"a step {facts['step_seconds']:,.2f} s, {facts['mfu']:.0%} of the peak"
        f" (the slowest rank {facts['straggling']:.3f} times the mean)",
        f"the run {facts['days']:,.1f} days for {facts['steps']:,} steps,"
        f" {facts['gpu_hours']:,.0f} GPU hours"
        + ("" if cost is None else f", which cost {cost:,.0f}"),
        f"a checkpoint {facts['checkpoint_bytes'] / 1e9:,.1f} GB,"
        f" {facts['checkpoints_bytes'] / 1e9:,.1f} GB for those that are kept",
    ]


def _loader_lines(facts: dict[str, Any]) -> list[str]:
    cores = facts["loader_cores_per_node"]
    rate = facts["loader_bytes_per_second_per_node"]
    return [
        f"the loader takes {cores:,.1f} cores and {rate / 1e6:,.1f} MB/s of disk on"
        " each node"
    ]


def assumptions(planner: Planner) -> Sequence[str]:
    """What the figures stand on."""
    assumed = planner.assumptions
    return [
        "assumed",
        *(_timed_here(planner) if planner.calibration else _by_rates(planner)),
        f"  {planner.images_per_sequence:.1f} images a sequence, documents of"
        f" {assumed.document_tokens} tokens, a vocabulary of {assumed.vocab_size:,}",
        f"  a save copies {SAVE_BANDWIDTH / 1e9:.0f} GB/s while steps wait",
        f"  a photograph takes {1e3 * DECODE_SECONDS:.1f} ms of a core and"
        f" {IMAGE_BYTES / 1e3:.0f} kB of disk",
    ]


def _by_rates(planner: Planner) -> Sequence[str]:
    gpu = planner.gpu
    rates = gpu.rates()
    return [
        f"  {gpu.name}: {gpu.source}",
        f"  products at {rates.decoder_products / 1e12:,.0f} (decoder),"
        f" {rates.encoder_products / 1e12:,.0f} (encoder) TFLOP/s of"
        f" {gpu.peak_flops / 1e12:,.0f}; memory at {rates.bandwidth / 1e12:.2f} TB/s",
        f"  links at {gpu.gpu_link / 1e9:,.0f} GB/s in a node,"
        f" {gpu.node_link / 1e9:,.0f} GB/s a GPU between nodes, of which collectives"
        " reach 80%; weights and gradients move while units compute",
        f"  {gpu.reserved_gib:.0f} GiB for CUDA, NCCL and fragments",
    ]


def _timed_here(planner: Planner) -> Sequence[str]:
    timed = planner.calibration
    assert timed is not None
    return [
        f"  {planner.gpu.name}: {planner.gpu.source}; no rate of a data sheet",
        *(
            f"  one of {name}, forward and backward: {1e3 * seconds:,.1f} ms"
            for name, seconds in timed.computes.items()
        ),
        f"  a million parameters, ms: gathered and reduced {1e9 * timed.moves:,.2f},"
        f" updated {1e9 * timed.updates:,.2f}; they move"
        f" {'while' if timed.overlaps else 'before and after'} units compute",
    ]
