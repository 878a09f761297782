"""A decoder trained in bf16 and with float8 products, on the same data from the same
weights: both loss curves, in one process.

    python benchmarks/float8.py [--steps 100] [--out NOTE.md]

The text is this repository's own, as bytes: real, if small. On CUDA the decoder has 24
layers of width 1,024 and its blocks are compiled; on the CPU, where float8 products are
emulated, 4 of width 128. `--tiny` is for a dry run.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from mm1 import dist
from mm1.batch import PackedBatch, move
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.train.layout import ParallelLayout
from mm1.train.optimizers.adamw import AdamW
from mm1.train.parallel import parallelize
from mm1.train.schedulers import WarmupCosine

LENGTH = 1024
NUM_BYTES = 256
ROOT = Path(__file__).parents[1]


def text() -> torch.Tensor:
    """All Python and Markdown files, as bytes."""
    paths = sorted(
        path
        for folder in ("mm1", "docs", "tests", "benchmarks")
        for kind in ("*.py", "*.md")
        for path in (ROOT / folder).rglob(kind)
    )
    return torch.frombuffer(
        bytearray(b"".join(path.read_bytes() for path in paths)),
        dtype=torch.uint8,
    ).long()


def batch(data: torch.Tensor, step: int, rows: int) -> PackedBatch:
    """Random pieces of the text, the same at each step of every run."""
    draw = torch.Generator().manual_seed(step)
    starts = torch.randint(len(data) - LENGTH - 1, (rows,), generator=draw)
    places = starts[:, None] + torch.arange(LENGTH)
    total = rows * LENGTH
    return PackedBatch(
        tokens=data[places].flatten(),
        targets=data[places + 1].flatten(),
        positions=torch.arange(LENGTH).repeat(rows),
        sources=torch.zeros(total, dtype=torch.int64),
        cu_seqlens=torch.arange(0, total + 1, LENGTH, dtype=torch.int32),
        images=torch.zeros(1, 3, 1, 1, dtype=torch.uint8),
        slots=torch.zeros(0, 1, dtype=torch.int64),
        max_seqlen=LENGTH,
        num_targets=total,
        num_padding=0,
        num_pairs=rows * LENGTH * (LENGTH + 1) // 2,
        source_names=("text",),
    )


def train(
    arguments: argparse.Namespace, device: torch.device, *, float8: bool
) -> tuple[list[float], list[float]]:
    """Losses in nats a byte and seconds, of each step."""
    cuda = device.type == "cuda"
    torch.manual_seed(0)
    with device:
        model = LanguageModel.Config(
            decoder=Decoder.Config(
                depth=24 if cuda else 4,
                dim=1024 if cuda else 128,
                num_heads=16 if cuda else 4,
            )
        ).build(vocab_size=NUM_BYTES)
    parallelize(
        model,
        ParallelLayout.Config().build(device),
        precision="bf16",
        float8=float8,
        activation_checkpointing="none",
        compile_units=cuda,
    )
    optimizer = AdamW.Config(peak_lr=arguments.lr).build(model=model)
    scheduler = WarmupCosine.Config(
        warmup_steps=max(1, arguments.steps // 10)
    ).build(peak_lr=arguments.lr, steps=arguments.steps)
    data = text()
    losses = []
    seconds = []
    for step in range(arguments.steps):
        made = move(batch(data, step, arguments.rows), device)
        start = time.perf_counter()
        loss = model(made)
        (loss.objective / made.num_targets).backward()
        optimizer.step(scheduler.learning_rate(step))
        losses.append(float(loss.means["loss"].total) / made.num_targets)
        seconds.append(time.perf_counter() - start)
    return losses, seconds


def report(
    arguments: argparse.Namespace,
    device: torch.device,
    runs: dict[str, tuple[list[float], list[float]]],
) -> str:
    (bf16, bf16_seconds), (float8, float8_seconds) = runs.values()
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    )
    lines = [
        f"### {name}: {arguments.steps} steps of {arguments.rows} x {LENGTH} bytes",
        "",
        "| step | bf16 | float8 | float8 - bf16 |",
        "|---|---|---|---|",
    ]
    every = max(1, arguments.steps // 10)
    for end in range(every, arguments.steps + 1, every):
        means = [
            statistics.mean(run[end - every : end]) for run in (bf16, float8)
        ]
        lines.append(
            f"| {end} | {means[0]:.4f} | {means[1]:.4f} | {means[1] - means[0]:+.4f} |"
        )
    late = arguments.steps // 2
    speeds = [
        statistics.median(s[late:]) for s in (bf16_seconds, float8_seconds)
    ]
    lines += [
        "",
        "Mean loss in nats a byte up to each step. Seconds a step:"
        f" {speeds[0]:.4f} in bf16, {speeds[1]:.4f} with float8.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=None)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--out", type=Path, help="append the result to this file"
    )
    parser.add_argument("--tiny", action="store_true", help="2 steps of 1 row")
    arguments = parser.parse_args()
    device = dist.start()
    if arguments.rows is None:
        arguments.rows = 16 if device.type == "cuda" else 4
    if arguments.tiny:
        arguments.steps = 2
        arguments.rows = 1
    runs = {
        name: train(arguments, device, float8=name == "float8")
        for name in ("bf16", "float8")
    }
    made = report(arguments, device, runs)
    print(made, flush=True)
    if arguments.out:
        with arguments.out.open("a", encoding="utf-8") as note:
            note.write(made + "\n")
    dist.stop()


if __name__ == "__main__":
    main()
