"""Runs of a study as submitit jobs (with its local stand-in for Slurm) and as tasks of
a local Ray."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch.stand_ins import write_torchrun

from mm1.catalog import recipe
from mm1.cli.study import study_by_name
from mm1.config import ConfigError, UserError
from mm1.study.executors import (
    JOB_FILE,
    Executor,
    LaunchExecutor,
    RayExecutor,
    RunCommand,
    SlurmExecutor,
)
from mm1.study.plan import StudyPlan, attempts
from mm1.study.runner import Runner
from mm1.train.trainer import Trainer

FAKE = (sys.executable, str(Path(__file__).with_name("fake_train.py")))


def add(plan: StudyPlan, rate: float, **init: str) -> str:
    run = Trainer.Config(init=init)
    run.optimizer.peak_lr = rate
    return plan.add("run", run)


@pytest.fixture(params=["slurm", "ray"])
def executor(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Executor]:
    if request.param == "slurm":
        pytest.importorskip("submitit", reason="pip install 'mm1[slurm]'")
        # A process that a shell starts in the background ignores SIGINT, and so do its
        # children: a cancelled job would not stop.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield SlurmExecutor(
            tmp_path / "slurm", None, FAKE, {"timeout_min": 5}, cluster="local"
        )
        signal.signal(signal.SIGINT, before)
        return
    ray = pytest.importorskip("ray", reason="pip install 'mm1[ray]'")
    folder = Path(__file__).parents[2]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(folder)}},
    )
    yield RayExecutor(None, FAKE, {"num_cpus": 1})
    ray.shutdown()


def test_each_run_ends_in_its_own_state(
    tmp_path: Path, executor: Executor
) -> None:
    plan = StudyPlan(tmp_path)
    good, bad, broken = (add(plan, rate) for rate in (0.5, 3.0, 1.0))
    after = add(plan, 0.5, encoder=good)
    states = Runner(plan, executor).run()
    assert states == {
        good: "finished",
        bad: "diverged",
        broken: "failed",
        after: "finished",
    }
    assert "out of memory" in (Path(broken) / "log.txt").read_text()


def test_interrupted_runs_save_and_resume(
    tmp_path: Path, executor: Executor
) -> None:
    plan = StudyPlan(tmp_path)
    run = Path(add(plan, 9.0))

    def interrupt() -> None:
        while not (run / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Runner(plan, executor).run()
    thread.join()
    # Slurm's stand-in kills a job after a second, while the run is still saving.
    with (run / "log.txt").open("a") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
    assert (run / "saved").exists()
    assert len(attempts(run)) == 1
    assert set(Runner(plan, executor).run().values()) == {"finished"}


def test_an_interrupt_while_a_process_is_started_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = RunCommand(
        (sys.executable, "-c", "import time; time.sleep(60)"), tmp_path, {}
    )
    start = RunCommand.start

    def interrupted(self: RunCommand) -> subprocess.Popen:
        process = start(self)
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(RunCommand, "start", interrupted)
    assert command() == -signal.SIGTERM


def test_a_job_near_its_time_limit_saves_and_is_queued_again(
    tmp_path: Path,
) -> None:
    pytest.importorskip("submitit", reason="pip install 'mm1[slurm]'")
    plan = StudyPlan(tmp_path)
    run = add(plan, 9.0)
    runner = Runner(
        plan,
        SlurmExecutor(
            tmp_path / "slurm", None, FAKE, {"timeout_min": 5}, cluster="local"
        ),
    )

    def signalled() -> None:
        while not (Path(run) / "ready").exists():
            time.sleep(0.01)
        controller = (Path(run) / JOB_FILE).read_text()
        (task,) = (
            Path(f"/proc/{controller}/task/{controller}/children")
            .read_text()
            .split()
        )
        os.kill(int(task), signal.SIGUSR2)  # as Slurm does, to the task itself

    thread = threading.Thread(target=signalled)
    thread.start()
    assert runner.run() == {run: "finished"}
    thread.join()
    assert (Path(run) / "saved").exists()
    assert (Path(run) / "started").read_text().count("\n") == 2


def test_a_second_call_waits_for_a_job_that_is_still_queued(
    tmp_path: Path,
) -> None:
    """As with Slurm. submitit's stand-in forgets jobs that are not its children, so one
    object makes both calls."""
    pytest.importorskip("submitit", reason="pip install 'mm1[slurm]'")
    executor = SlurmExecutor(tmp_path / "slurm", None, (), {}, cluster="local")
    folder = tmp_path / "run"
    folder.mkdir()
    command = RunCommand(
        (
            sys.executable,
            "-c",
            "import time; time.sleep(1); raise SystemExit(3)",
        ),
        folder,
        {},
    )
    first = executor.start(command)
    kind = executor.executor.job_class
    known = {(folder / JOB_FILE).read_text(): first}
    executor.executor.job_class = lambda _, number: known[number].job
    second = executor.start(command)
    executor.executor.job_class = kind
    assert second.wait() == first.wait() == 3


@pytest.mark.slow
def test_runs_over_several_nodes_are_jobs_of_mm1_launch(
    tmp_path: Path,
) -> None:
    """How a run ends is known, which torchrun alone does not tell."""
    plan = StudyPlan(tmp_path / "study")
    names = []
    for seed in range(2):
        run = recipe("pretrain_small")
        run.seed = seed
        names.append(plan.add("run", run))
    torchrun = write_torchrun(tmp_path, "complete diverge")
    options = (
        "--nodes",
        "2",
        "--gpus-per-node",
        "0",
        "--python",
        str(torchrun),
    )
    states = Runner(plan, LaunchExecutor(options)).run()
    assert list(states.values()) == ["finished", "diverged"]
    (first, second) = (tmp_path / "calls-1").read_text().splitlines()
    assert f"--out {names[0]} --resume" in first
    assert f"--out {names[1]} --resume" in second


def test_impossible_requests_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="timeout_min"):
        SlurmExecutor(
            tmp_path, None, (), {"timeout_min": "2:00"}, cluster="local"
        )
    with pytest.raises(UserError, match="gpus_per_nod"):
        SlurmExecutor(tmp_path, None, (), {"gpus_per_nod": 8}, cluster="local")
    with pytest.raises(UserError, match="one task on one node"):
        SlurmExecutor(tmp_path, None, (), {"nodes": 2}, cluster="local")
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        study_by_name(
            ["miniature_text"], tmp_path, seeds=[0], on="slurm", ask=["8"]
        )
    with pytest.raises(ConfigError, match="--on slurm or ray"):
        study_by_name(
            ["miniature_text"], tmp_path, seeds=[0], ask=["gpus_per_node=8"]
        )
    with pytest.raises(ConfigError, match="leave out"):
        study_by_name(
            ["miniature_text"],
            tmp_path,
            seeds=[0],
            launch="--nodes 2",
            on="ray",
        )
    with pytest.raises(UserError, match="detect"):
        study_by_name(["miniature_text"], tmp_path, seeds=[0], on="slurm")
    for name, make in (
        ("submitit", lambda: SlurmExecutor(tmp_path)),
        ("ray", RayExecutor),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match="pip install"):
            make()
