"""Agents on this machine: a program that stands in for torchrun, and torchrun."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins import write_torchrun

from mm1.launch.here import AGAIN_CODE, run_here
from mm1.launch.job import TrainingJob


def make_job(folder: Path, plan: str) -> TrainingJob:
    return TrainingJob(
        train=("pretrain_small",),
        out=folder / "run",
        workdir=folder,
        name="a-run",
        python=str(write_torchrun(folder, plan)),
        nodes=2,
        max_restarts=2,
        shutdown_timeout=20,
    )


def calls(job: TrainingJob) -> list[int]:
    """How often each node was started."""
    return [
        (job.workdir / f"calls-{node}").read_text().count("\n")
        for node in range(job.nodes)
    ]


@pytest.mark.parametrize(
    ("plan", "code", "starts"),
    [
        ("finish", 0, 1),
        ("crash crash finish", 0, 3),
        ("crash", 1, 3),
        ("crash crash save-and-crash crash crash finish", 0, 6),
        ("mistake", 2, 1),
        ("die finish", 0, 2),
    ],
)
def test_starts_all_nodes_again_if_that_helps(
    plan: str,
    code: int,
    starts: int,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = make_job(tmp_path, plan)
    assert run_here(job) == code
    assert calls(job) == [starts, starts]
    said = capfd.readouterr().err
    assert ("step 1\n" in said) == (code == 0)  # of rank 0 alone
    assert said.count("step 1\n") <= 1
    if plan == "die finish":
        assert "node 1 was killed by SIGKILL" in said
        assert (tmp_path / "saved-0").exists()


def test_nodes_share_the_cores(tmp_path: Path) -> None:
    job = replace(make_job(tmp_path, "finish"), processes=1)
    os.environ.pop("OMP_NUM_THREADS", None)
    assert run_here(job) == 0
    threads = (tmp_path / "calls-0").read_text().split()[0]
    cores = len(os.sched_getaffinity(0))
    assert int(threads) == max(1, cores // 2)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
)
def test_a_signal_reaches_all_nodes(
    number: signal.Signals, tmp_path: Path
) -> None:
    job = make_job(tmp_path, "wait")

    def send() -> None:
        while not all(
            (tmp_path / f"ready-{node}").exists() for node in range(2)
        ):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    assert run_here(job) == AGAIN_CODE
    thread.join()
    assert all((tmp_path / f"saved-{node}").exists() for node in range(2))
