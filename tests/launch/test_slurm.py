"""The script for Slurm, run with programs that stand in for Slurm and torchrun."""

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from stand_ins import write_slurm, write_torchrun

from mm1.config import UserError
from mm1.launch import slurm
from mm1.launch.job import TrainingJob, render
from mm1.launch.slurm import queue_job, wait_for_job
from mm1.launch.targets import Slurm


def make_job(folder: Path, plan: str) -> TrainingJob:
    return TrainingJob(
        train=("pretrain_small",),
        out=folder / "run",
        workdir=folder,
        name="a-run",
        python=str(write_torchrun(folder, plan)),
        nodes=2,
    )


def start(job: TrainingJob) -> subprocess.Popen:
    """The script, as Slurm would run it on the first node."""
    folder = job.workdir
    write_slurm(folder)
    script = folder / "job.sh"
    script.write_text(Slurm().text(job))
    environment = os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[a-b]",
    }
    return subprocess.Popen(
        ["bash", str(script)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(job: TrainingJob) -> tuple[int, str]:
    """Its exit code and what it says."""
    with start(job) as script:
        said = script.communicate()[1]
    return script.returncode, said


def requeued(job: TrainingJob) -> int:
    path = job.workdir / "requeued"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.parametrize(
    ("plan", "code", "again"),
    [
        ("finish", 0, 0),
        ("save-and-crash", 75, 1),
        ("mistake", 2, 0),
        ("diverge", 3, 0),
    ],
)
def test_is_queued_again_if_that_helps(
    plan: str, code: int, again: int, tmp_path: Path
) -> None:
    job = make_job(tmp_path, plan)
    assert run(job)[0] == code
    assert requeued(job) == again
    assert (job.out / "logs/7/answer").read_text() == f"{code}\n"
    for node in range(2):
        (call,) = (tmp_path / f"calls-{node}").read_text().splitlines()
        assert "--rdzv-endpoint=node-a:20007 --rdzv-id=7" in call
        assert f"is_host={1 - node}" in call
        assert f"train pretrain_small --out {job.out} --resume" in call


def test_gives_up_after_failures_without_a_checkpoint(tmp_path: Path) -> None:
    job = replace(make_job(tmp_path, "crash"), max_restarts=2)
    assert [run(job)[0] for _ in range(2)] == [75, 75]
    code, said = run(job)
    assert code == 1
    assert "3 times in a row" in said
    assert requeued(job) == 2


def test_a_new_checkpoint_starts_the_count_anew(tmp_path: Path) -> None:
    job = replace(
        make_job(tmp_path, "crash save-and-crash crash"), max_restarts=1
    )
    codes = [run(job)[0] for _ in range(4)]
    assert codes == [75, 75, 75, 1]


@pytest.mark.parametrize(
    ("number", "again"),
    [(signal.SIGUSR1, 1), (signal.SIGUSR2, 1), (signal.SIGTERM, 0)],
)
def test_saves_ahead_of_the_time_limit_and_when_preempted(
    number: signal.Signals, again: int, tmp_path: Path
) -> None:
    """Slurm itself queues what it has preempted, and nobody what was cancelled."""
    job = make_job(tmp_path, "wait")
    with start(job) as script:
        while not all(
            (tmp_path / f"ready-{node}").exists() for node in range(2)
        ):
            assert script.poll() is None
            time.sleep(0.02)
        script.send_signal(number)
        assert script.wait() == 75
    assert requeued(job) == again
    assert all((tmp_path / f"saved-{node}").exists() for node in range(2))


def test_a_node_that_sees_another_folder_says_so(tmp_path: Path) -> None:
    job = make_job(tmp_path, "finish")
    script = "node=1 head=node-a run=/a logs=$1\n" + render(
        "shared_folder.sh", job
    ).replace("sleep 1", ":")
    words = ["bash", "-c", script, "", str(tmp_path / "other")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert "not the folder that node 0 (node-a) sees" in done.stderr


def test_a_run_is_not_submitted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, "finish")
    with pytest.raises(UserError, match="no sbatch"):
        queue_job(job, "script")
    assert not job.out.exists()
    write_slurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert queue_job(job, "script") == "4711"
    assert queue_job(job, "script") == "4711"  # the first is over
    (tmp_path / "state").write_text("PENDING")
    with pytest.raises(UserError, match=r"4711 .*PENDING.*scancel"):
        queue_job(job, "script")
    (tmp_path / "state").unlink()
    refused = replace(job, options={"partition": "nowhere"})
    with pytest.raises(UserError, match="invalid partition"):
        queue_job(refused, Slurm().text(refused))


@pytest.mark.parametrize("interrupted", [False, True])
def test_waits_for_a_job(
    interrupted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is cancelled before it has started leaves no exit code."""
    write_slurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.02)
    job = make_job(tmp_path, "diverge")
    number = queue_job(job, "script")
    (tmp_path / "state").write_text("RUNNING")

    def end() -> None:
        time.sleep(0.3)
        if interrupted:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            (job.out / "logs" / number).mkdir()
            (job.out / "logs" / number / "answer").write_text("3\n")
            (tmp_path / "state").unlink()

    thread = threading.Thread(target=end)
    thread.start()
    assert wait_for_job(job.out, number) == (1 if interrupted else 3)
    thread.join()
    assert not (tmp_path / "state").exists()


def test_a_second_call_waits_for_the_job_that_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run of a study, say, that was killed meanwhile."""
    write_slurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "POLL_SECONDS", 0.02)
    job = make_job(tmp_path, "finish")
    number = queue_job(job, "script")
    (tmp_path / "sbatch").unlink()  # nothing can be submitted
    (job.out / "logs" / number).mkdir()
    (job.out / "logs" / number / "answer").write_text("3\n")
    states = iter(["PENDING", "RUNNING", ""])
    monkeypatch.setattr(slurm, "job_state", lambda _: next(states))
    assert Slurm().start_and_wait(job) == 3
    assert not list(states)
