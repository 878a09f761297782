"""Kills random ranks of a run under `torchrun --max-restarts`, which has to go on by
itself, and compares every byte with a run that nothing disturbed.

    python benchmarks/rank_kills.py --kills 20 --ranks 2 --out benchmarks/rank_kills.md

A rank is killed (`kill -9`) at a random moment: while ranks start, in a step, while a
checkpoint is written. Nobody starts anything again but torchrun. `kills.py` kills
commands, and starts them again itself.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from kills import contents, in_a_fork, marked, named, send, shrink, small

MARK = "MM1_KILLS_MARK"
HANG_SECONDS = 300.0
STEPS = 40
MOST_RESTARTS = 6
"""Of one torchrun; then another run begins."""


@dataclass
class Outcome:
    kills: int = 0
    runs: int = 0
    steps: list[int] = field(default_factory=list)
    """Of the newest checkpoint when a rank was killed; -1: none."""
    wrong: list[str] = field(default_factory=list)
    resumed_after: list[float] = field(default_factory=list)
    """Seconds from a kill to the next checkpoint, or the end."""


def make_run(work: Path) -> None:
    """A config to train: the miniature world's language model, made small."""
    shrink()
    from mm1 import config as configs
    from mm1.miniature.recipes import miniature_decoder
    from mm1.miniature.world.prepared import prepare_world

    prepare_world(work / "world")
    config = small(miniature_decoder(str(work)))
    config.steps = STEPS
    config.benchmarks = {}
    config.model.decoder.depth = 2
    config.model.decoder.dim = 64
    config.model.decoder.hidden_dim = 96
    config.loader.batch_size = 4
    config.loader.micro_batch_size = 1
    (work / "train.json").write_text(json.dumps(configs.to_json(config)))


def start(
    folder: Path, config: Path, ranks: int, mark: str
) -> subprocess.Popen[bytes]:
    """torchrun in a folder; what it says goes to `said.txt` there."""
    folder.mkdir()
    words = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={ranks}", f"--max-restarts={MOST_RESTARTS}"),
        *("-m", "mm1.cli", "train", str(config), "--resume", "--out", "run"),
    ]
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            words,
            cwd=folder,
            stdout=said,
            stderr=said,
            env=os.environ | {MARK: mark},
            start_new_session=True,
        )


def newest(folder: Path) -> int:
    steps = folder.glob("run/checkpoints/step-*[0-9]")
    return max((int(path.name[5:]) for path in steps), default=-1)


def rank_processes(mark: str) -> list[int]:
    """Of one torchrun: the processes that it has started."""
    return [pid for pid in marked(mark, set()) if "-u -m mm1.cli" in named(pid)]


def disturb(
    process: subprocess.Popen[bytes],
    folder: Path,
    mark: str,
    rng: random.Random,
    outcome: Outcome,
    kills: int,
) -> None:
    """Kills ranks of one run until it ends or has no restart left."""
    for _ in range(MOST_RESTARTS):
        if outcome.kills == kills:
            return
        before = newest(folder)
        early = rng.random() < 0.2
        while process.poll() is None and not (
            rank_processes(mark) if early else newest(folder) > before
        ):
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 5.0 if early else 2.0))
        ranks = rank_processes(mark)
        if process.poll() is not None or not ranks:
            return
        outcome.steps.append(newest(folder))
        killed = time.monotonic()
        send(rng.choice(ranks), signal.SIGKILL)
        outcome.kills += 1
        while (
            process.poll() is None
            and newest(folder) <= outcome.steps[-1]
            and time.monotonic() < killed + HANG_SECONDS
        ):
            time.sleep(0.05)
        outcome.resumed_after.append(time.monotonic() - killed)


def one_run(
    place: Path,
    config: Path,
    ranks: int,
    rng: random.Random,
    outcome: Outcome,
    kills: int,
) -> dict[str, str]:
    """A run to its end, with kills until there have been so many: its files."""
    mark = f"{os.getpid()}-{place.name}"
    process = start(place, config, ranks, mark)
    disturb(process, place, mark, rng, outcome, kills)
    try:
        code = process.wait(HANG_SECONDS)
    except subprocess.TimeoutExpired:
        outcome.wrong.append(f"{place.name} hangs")
        os.killpg(process.pid, signal.SIGKILL)
        return {}
    said = (place / "said.txt").read_text(errors="replace")
    if code:
        outcome.wrong.append(f"{place.name} ended with {code}: {said[-2000:]}")
    outcome.wrong += [
        f"{place.name} left {named(pid)}" for pid in marked(mark, set())
    ]
    return contents(place / "run")


def note(outcome: Outcome, ranks: int, seconds: float) -> str:
    import torch

    waits = sorted(outcome.resumed_after)
    right = outcome.kills if not outcome.wrong else "not all"
    return "\n".join(
        [
            "# Killed ranks",
            "",
            (__doc__ or "").split("\n\n")[0].replace("\n", " "),
            "",
            f"    python benchmarks/rank_kills.py {' '.join(sys.argv[1:])}",
            "",
            f"{time.strftime('%Y-%m-%d')}: {platform.machine()},"
            f" {len(os.sched_getaffinity(0))} cores, load"
            f" {os.getloadavg()[1]:.0f}, torch {torch.__version__}, {ranks} ranks;"
            f" {seconds / 60:.0f} minutes.",
            "",
            f"{right} of {outcome.kills} kills, in {outcome.runs} runs of {STEPS}"
            " steps, were followed by the same bytes as in a run without; at the kill"
            " the newest checkpoint was that of step"
            f" {', '.join(map(str, outcome.steps))} (-1: none).",
            f"From a kill to the next checkpoint: median {waits[len(waits) // 2]:.0f}"
            f" s, at most {waits[-1]:.0f} s, of which the others take 4 s to find out"
            " who is gone, and the rest is mostly starting Python and torch.",
            *(f"- wrong: {text}" for text in outcome.wrong),
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the note")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    began = time.monotonic()
    rng = random.Random(arguments.seed)
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="rank-kills-") as scratch:
        work = Path(scratch)
        in_a_fork(make_run, work)
        config = work / "train.json"
        expected = one_run(
            work / "whole", config, arguments.ranks, rng, outcome, 0
        )
        while outcome.kills < arguments.kills:
            place = work / f"run-{outcome.runs}"
            found = one_run(
                place, config, arguments.ranks, rng, outcome, arguments.kills
            )
            outcome.runs += 1
            outcome.wrong += [
                f"{place.name}: {name} differs"
                for name in sorted(found.keys() | expected.keys())
                if found.get(name) != expected.get(name)
            ]
            print(outcome, file=sys.stderr, flush=True)
    text = note(outcome, arguments.ranks, time.monotonic() - began)
    print(text)
    if arguments.out:
        arguments.out.write_text(text)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
