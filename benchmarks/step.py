"""What one training step of a recipe costs.

    python benchmarks/step.py pretrain_ablation_base loader.batch_size=8
    loader.micro_batch_size=4 [--workers 8] [--profile] [--out note.md]

The step is `Trainer.train_step` on batches of the real loader, whose documents are
synthetic (`synthetic.py`), so every option of a recipe is measured as a user gets it.
Each step is waited for, so that it has a time of its own.

MFU = model FLOPs of forward and backward (`Model.flops`: attention by its causal pairs,
recomputation not counted) / time / peak, where the peak is the chip's bf16 data sheet
and, apart, a large matrix product measured in the same run. `roofline.py` says what the
step could take at best, `step_profile.py` where the time goes.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import forkserver, set_forkserver_preload
from pathlib import Path

import torch
from roofline import predict
from step_profile import profile_step
from synthetic import synthetic_run

from mm1 import dist
from mm1.loader.loader import StepBatches
from mm1.plan.roofline import MicroBatchWork, Rates
from mm1.train.trainer import Trainer

DATA_SHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s, by what the device's name contains."""


@dataclass
class Measurement:
    """Of the steps after warm-up, unless said otherwise."""

    seconds: list[float] = field(default_factory=list)
    host_seconds: list[float] = field(default_factory=list)
    """Until the step was queued: near `seconds`, the host is the bottleneck."""
    data_seconds: list[float] = field(default_factory=list)
    warmup_seconds: list[float] = field(default_factory=list)
    flops: list[float] = field(default_factory=list)
    tokens: float = 0.0
    images: float = 0.0
    predicted: float = 0.0
    """Seconds by the roofline."""
    startup: float = 0.0
    """Seconds until the first batch: imports, model, optimizer, workers."""
    graphs: dict[str, int] = field(default_factory=dict)
    """Compiled in warm-up, by kind of unit."""
    later_graphs: dict[str, int] = field(default_factory=dict)


def graphs_compiled(trainer: Trainer) -> dict[str, int]:
    return dict(trainer.compiled.graphs) if trainer.compiled else {}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    trainer: Trainer,
    steps: Iterator[StepBatches],
    *,
    warmup: int,
    count: int,
    limit: float,
    rates: Rates,
) -> Measurement:
    """Takes `warmup` steps and then `count`, or as many as fit `limit` seconds."""
    result = Measurement()
    deadline = float("inf")
    trainer.model.train()
    for number in range(warmup + count):
        if number == warmup:
            deadline = time.perf_counter() + limit
            result.graphs = graphs_compiled(trainer)
        if len(result.seconds) > 1 and time.perf_counter() > deadline:
            break
        start = time.perf_counter()
        data = next(steps)
        arrived = time.perf_counter()
        trainer.reporter.throughput.clear()
        trainer.train_step(data)
        trainer.step += 1
        queued = time.perf_counter()
        wait(trainer.device)
        took = time.perf_counter() - start
        dist.say(f"step {number + 1}: {took:.3f} s")
        if number < warmup:
            result.warmup_seconds.append(took)
            continue
        result.seconds.append(took)
        result.host_seconds.append(queued - arrived)
        result.data_seconds.append(arrived - start)
        result.flops.append(trainer.reporter.throughput.flops)
        result.tokens += trainer.reporter.throughput.tokens
        result.images += trainer.reporter.throughput.images
        work = [MicroBatchWork.of(batch) for batch in data.micro_batches]
        result.predicted += predict(trainer, work, rates)
    result.later_graphs = graphs_compiled(trainer)
    for kind, count in result.graphs.items():
        result.later_graphs[kind] -= count
    return result


def report(trainer: Trainer, result: Measurement) -> dict[str, str]:
    """The lines of the table."""
    seconds = result.seconds
    total = sum(seconds)
    median = statistics.median(seconds)
    rate = sum(result.flops) / total
    sequences = trainer.config.loader.batch_size  # type: ignore[attr-defined]
    peak = trainer.reporter.throughput.peak_flops
    spread = (max(seconds) - min(seconds)) / median
    rows = {
        "parameters": ", ".join(
            f"{name} {count / 1e6:,.1f}M"
            for name, count in trainer.params.items()
        ),
        "seconds a step": f"median {median:.3f}, {min(seconds):.3f} to"
        f" {max(seconds):.3f} (spread {spread:.1%}, {len(seconds)} steps)",
        "milliseconds a sequence": f"{1e3 * median / sequences:.1f}",
        "useful tokens/s": f"{result.tokens / total:,.0f}",
        "images/s": f"{result.images / total:,.1f}",
        "model TFLOP/s": f"{rate / 1e12:.4g}",
        "product, measured": f"{peak / 1e12:.4g} TFLOP/s",
        "MFU of the product": f"{rate / peak:.1%}",
    }
    if trainer.device.type == "cuda":
        name = torch.cuda.get_device_name()
        for chip, peak in DATA_SHEET.items():
            if chip in name:
                each = [
                    flops / took / peak
                    for flops, took in zip(result.flops, seconds, strict=True)
                ]
                rows[f"MFU of {peak / 1e12:.0f}"] = (
                    f"{rate / peak:.1%}; of a step {min(each):.1%} to"
                    f" {max(each):.1%}"
                )
        gib = [
            peak / 2**30
            for peak in (
                torch.cuda.max_memory_allocated(),
                torch.cuda.max_memory_reserved(),
            )
        ]
        rows["peak memory"] = f"{gib[0]:.1f} GiB, {gib[1]:.1f} reserved"
        rows["roofline"] = (
            f"{result.predicted / len(seconds):.3f} s a step; measured"
            f" {total / result.predicted:.2f} times that"
        )
    else:
        memory = trainer.reporter.throughput.read()["max_memory_gib"]
        rows["peak memory"] = f"{memory:.1f} GiB"
    return rows | {
        "time to the first batch, warm-up steps": f"{result.startup:.1f} s; "
        + ", ".join(f"{each:.1f}" for each in result.warmup_seconds)
        + " s",
        "waiting for data, host": f"{sum(result.data_seconds) / total:.1%},"
        f" {sum(result.host_seconds) / total:.1%} of the time",
        "graphs compiled": f"{_counts(result.graphs)} in warm-up,"
        f" {_counts(result.later_graphs)} later",
    }


def _counts(graphs: dict[str, int]) -> str:
    """`24 (12 Block of width 1280, 12 Block of width 3072)`."""
    kinds = ", ".join(f"{n} {kind}" for kind, n in graphs.items() if n)
    return f"{sum(graphs.values())} ({kinds})" if kinds else "0"


def section(title: str, device: torch.device, rows: dict[str, str]) -> str:
    """Markdown: a heading, where and how it was measured, the table."""
    name = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    where = (
        f"{time.strftime('%Y-%m-%d')}, {name}, torch {torch.__version__}, Python"
        f" {platform.python_version()}; `python {' '.join(sys.argv)}`"
    )
    lines = [f"| {key} | {value} |" for key, value in rows.items()]
    table = "\n".join(["| | |", "|---|---|", *lines])
    return f"### {title}\n\n{where}\n\n{table}\n"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="fewer steps, but at least two, once they have taken this long",
    )
    parser.add_argument(
        "--text-only",
        action="store_true",
        help="no images at all: the ceiling of the text side",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="and where the time of one more micro-batch and update goes",
    )
    parser.add_argument(
        "--out", type=Path, help="append the result to this Markdown note"
    )
    return parser.parse_intermixed_args()


def main() -> None:
    began = time.perf_counter()
    arguments = options()
    if arguments.workers:
        set_forkserver_preload(["synthetic", "datasets"])
        forkserver.ensure_running()  # imports while the model is built
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        config = synthetic_run(
            arguments.recipe,
            [f"loader.workers={arguments.workers}", *arguments.overrides],
            folder=Path(scratch),
            vocab_size=arguments.vocab_size,
            text_only=arguments.text_only,
        )
        trainer = config.build(folder=Path(scratch) / "run")
        steps = trainer.loader.steps(None, rank=0, world_size=1)
        first = next(steps)
        startup = time.perf_counter() - began
        dist.say(f"first batch after {startup:.1f} s")
        result = measure(
            trainer,
            chain([first], steps),
            warmup=arguments.warmup,
            count=arguments.steps,
            limit=arguments.seconds,
            rates=Rates(),
        )
        result.startup = startup
        title = " ".join([arguments.recipe, *arguments.overrides])
        if arguments.text_only:
            title += " --text-only"
        _write(
            section(title, trainer.device, report(trainer, result)),
            arguments.out,
        )
        if arguments.profile:
            _write(profile_step(trainer, next(steps)), arguments.out)
        dist.stop()


def _write(text: str, out: Path | None) -> None:
    print(text, flush=True)
    if out:
        with out.open("a", encoding="utf-8") as note:
            note.write(text + "\n")


if __name__ == "__main__":
    main()
