"""How long training stands still for a checkpoint, and how much it is slowed while the
checkpoint is written aside.

    python benchmarks/save_stall.py --saves 5 --out benchmarks/save_stall.md

writes the note anew, and says in it whether the machine was quiet when it began.

A language model of about 100 million parameters on synthetic documents. Steps without a
save and steps during one take turns, so that other work on the machine meets both. The
stall is the time in which no step runs: gathering the state, copying it, and making the
checkpoint count. The slowdown is what steps take longer while files are written.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from synthetic import synthetic_run

from mm1 import dist
from mm1.train.trainer import Trainer

OVERRIDES = (
    "precision=fp32",
    "steps=1000",
    "checkpoint_every=1000",
    "loader.sequence_length=512",
    "loader.batch_size=1",
    "loader.micro_batch_size=1",
    "loader.max_images=0",
    "model.decoder.depth=12",
    "model.decoder.dim=768",
    "model.decoder.num_heads=12",
    "model.decoder.num_kv_heads=12",
    "model.decoder.hidden_dim=2048",
)
STEPS_BETWEEN_SAVES = 100
QUIET_LOAD = 0.5
"""What a quiet machine has at most, before anything starts."""
PLAIN_STEPS = 3
"""Without a save, before each save."""


class Measured:
    """Seconds."""

    def __init__(self) -> None:
        self.plain: list[float] = []
        self.during: list[float] = []
        self.stalls: list[float] = []
        self.slowdowns: list[float] = []
        """Of all steps during one save, together."""

    def save(self, trainer: Trainer, steps: object) -> None:
        plain = [timed_step(trainer, steps) for _ in range(PLAIN_STEPS)]
        start = time.perf_counter()
        trainer._save_checkpoint()
        stall = time.perf_counter() - start
        during = []
        while trainer.checkpoints.pending is not None:
            during.append(timed_step(trainer, steps))
            start = time.perf_counter()
            trainer.checkpoints.settle()
            stall += time.perf_counter() - start
        self.plain += plain
        self.during += during
        self.stalls.append(stall)
        usual = statistics.median(plain)
        self.slowdowns.append(sum(each - usual for each in during))


def timed_step(trainer: Trainer, steps: object) -> float:
    data = next(steps)  # type: ignore[call-overload]
    start = time.perf_counter()
    trainer.train_step(data)
    trainer.step += 1
    trainer.loader_state = data.state
    return time.perf_counter() - start


def note(trainer: Trainer, measured: Measured, load: float) -> str:
    """`load` is that of the machine before anything was measured."""
    cores = len(os.sched_getaffinity(0))
    quiet = (
        "The machine was quiet."
        if load < QUIET_LOAD
        else "Other work ran on the machine, and took from steps and saves alike: only"
        " the shares mean something. Repeat the command on a quiet one."
    )
    step = statistics.median(measured.plain)
    stall = statistics.median(measured.stalls)
    slowdown = statistics.median(measured.slowdowns)
    share = 100 / (STEPS_BETWEEN_SAVES * step)
    millions = sum(trainer.params.values()) / 1e6
    return "\n".join(
        [
            "# The stall of a checkpoint",
            "",
            f"{time.strftime('%Y-%m-%d')}, `python benchmarks/save_stall.py --saves"
            f" {len(measured.stalls)} --out benchmarks/save_stall.md`:"
            f" {platform.machine()}, {cores} cores, load"
            f" {load:.1f}, {torch.get_num_threads()} threads, torch"
            f" {torch.__version__}. {millions:.0f}M parameters,"
            f" {12 * millions / 1e3:.1f} GB of weights and optimizer state;"
            f" {len(measured.stalls)} saves, medians.",
            "",
            "| | seconds | of a step, at one save in 100 steps |",
            "|---|---|---|",
            f"| a step of {trainer.config.loader.sequence_length} tokens"  # type: ignore[attr-defined]
            f" | {step:.2f} | |",
            f"| stall | {stall:.2f} ({min(measured.stalls):.2f} to"
            f" {max(measured.stalls):.2f}) | {stall * share:.2f}% |",
            f"| steps during the save ({len(measured.during)}) are slower by, in all |"
            f" {slowdown:.2f} | {slowdown * share:.2f}% |",
            "",
            quiet,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--out", type=Path, help="the note")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        config = synthetic_run(
            "pretrain_small",
            OVERRIDES,
            folder=Path(scratch),
            vocab_size=16384,
            text_only=True,
        )
        trainer = config.build(folder=Path(scratch) / "run")
        steps = trainer.loader.steps(None, rank=0, world_size=1)
        trainer.model.train()
        measured = Measured()
        timed_step(trainer, steps)
        trainer._save_checkpoint()  # the first allocates what later ones use again
        trainer.checkpoints.finish()
        for _ in range(arguments.saves):
            measured.save(trainer, steps)
        text = note(trainer, measured, load)
        trainer.lock.__exit__()
        dist.stop()
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
