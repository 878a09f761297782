"""`mm1 launch --on here --nodes 2`, of which agents and ranks are killed at random,
finishes by itself, with the metrics of a run that was left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from worlds import make_world, pretrain

from mm1 import config as configs
from mm1.runs.description import finished
from mm1.train.shutdown import INTERRUPTED_CODE

PATIENCE = 900.0
KILLS = 4


def launch(world: Path, out: Path) -> subprocess.Popen:
    config = pretrain(world, steps=200, checkpoint_every=10, log_every=5)
    stored = out.with_suffix(".json")
    stored.write_text(json.dumps(configs.to_json(config)))
    words = [sys.executable, "-m", "mm1.cli", "launch", str(stored)]
    with out.with_suffix(".log").open("w") as log:
        return subprocess.Popen(
            [*words, "--nodes", "2", "--out", str(out)], stderr=log
        )


def children(number: int) -> list[int]:
    with suppress(OSError):
        path = Path(f"/proc/{number}/task/{number}/children")
        return [int(word) for word in path.read_text().split()]
    return []


def kill_one(
    launcher: subprocess.Popen, out: Path, chance: random.Random, lines: int
) -> None:
    """Kills an agent or a rank soon after the run has logged so often."""
    while launcher.poll() is None and logged(out) < lines:
        time.sleep(0.05)
    time.sleep(chance.uniform(0, 3))
    if victims := agents_and_ranks(launcher.pid):
        victim = chance.choice(victims)
        print("after", logged(out), "lines: kill", victim, "of", victims)
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)


def logged(out: Path) -> int:
    with suppress(OSError):
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    return 0


def agents_and_ranks(launcher: int) -> list[int]:
    agents = children(launcher)
    return agents + [rank for agent in agents for rank in children(agent)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.mark.long
def test_a_run_killed_at_random_finishes(world: Path, tmp_path: Path) -> None:
    with launch(world, tmp_path / "alone") as alone:
        assert alone.wait(PATIENCE) == 0
    seed = random.randrange(1 << 32)
    print("seed", seed)  # shown if it fails
    chance = random.Random(seed)
    out = tmp_path / "killed"
    with launch(world, out) as launcher:
        for lines in sorted(chance.randrange(36) for _ in range(KILLS)):
            kill_one(launcher, out, chance, lines)
        assert launcher.wait(PATIENCE) == 0, out.with_suffix(".log").read_text()
    assert finished(out)
    alone_metrics = (tmp_path / "alone/metrics.jsonl").read_bytes()
    assert (out / "metrics.jsonl").read_bytes() == alone_metrics


@pytest.mark.long
def test_a_signal_to_every_process_leaves_a_checkpoint(
    world: Path, tmp_path: Path
) -> None:
    """As `scancel --signal=USR1 --full` and `pkill` send it: to agents, too."""
    out = tmp_path / "run"
    with launch(world, out) as launcher:
        while not (out / "metrics.jsonl").exists():
            assert launcher.poll() is None
            time.sleep(0.1)
        for number in (*agents_and_ranks(launcher.pid), launcher.pid):
            os.kill(number, signal.SIGUSR1)
        assert launcher.wait(PATIENCE) == INTERRUPTED_CODE
    said = out.with_suffix(".log").read_text()
    assert "mm1: saved at step" in said, said
    assert list((out / "checkpoints").glob("step-*"))


@pytest.mark.long
def test_a_killed_launcher_leaves_a_checkpoint_and_nothing_else(
    world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with launch(world, out) as launcher:
        while not (out / "metrics.jsonl").exists():
            assert launcher.poll() is None
            time.sleep(0.1)
        started = agents_and_ranks(launcher.pid)
        launcher.kill()
    limit = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{number}").exists() for number in started):
        assert time.monotonic() < limit
        time.sleep(0.2)
    assert list((out / "checkpoints").glob("step-*"))
    with launch(world, out) as again:
        assert again.wait(PATIENCE) == 0
    assert finished(out)
