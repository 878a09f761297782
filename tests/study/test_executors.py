"""Runs of a study as tasks of a local Ray, and as jobs of `mm1 launch`."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from launch.stand_ins import write_slurm, write_torchrun

from mm1.catalog import recipe
from mm1.cli.study import study_by_name
from mm1.config import ConfigError, UserError
from mm1.study.executors import (
    Executor,
    LaunchExecutor,
    RayExecutor,
    RunCommand,
)
from mm1.study.plan import StudyPlan, attempts
from mm1.study.runner import Runner
from mm1.train.trainer import Trainer

FAKE = (sys.executable, str(Path(__file__).with_name("fake_train.py")))


def add(plan: StudyPlan, rate: float, **init: str) -> str:
    run = Trainer.Config(init=init)
    run.optimizer.peak_lr = rate
    return plan.add("run", run)


@pytest.fixture
def executor() -> Iterator[Executor]:
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


SBATCH = """#!/bin/bash
# A job that is over at once: the first has finished, the second has diverged.
[ "$1" = --version ] && exit
run=$(sed -n 's/^run=//p' "$2")
cp "$2" "$0.$(ls "$0".* 2> /dev/null | wc -l)"
mkdir -p "$run/logs/4711"
if [ -e "$0.1" ]; then echo 3; else echo 0; fi > "$run/logs/4711/answer"
echo '{"finished": true}' > "$run/summary.json"
echo 4711
"""


@pytest.mark.slow
def test_runs_are_jobs_of_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through `mm1 launch`, with commands that stand in for Slurm's."""
    write_slurm(tmp_path)
    (tmp_path / "sbatch").write_text(SBATCH)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    plan = StudyPlan(tmp_path / "study")
    for seed in range(2):
        run = recipe("pretrain_small")
        run.seed = seed
        plan.add("run", run)
    options = [
        "--on",
        "slurm",
        "--gpus-per-node",
        "0",
        "--option",
        "partition=cpu",
    ]
    executor = LaunchExecutor(options)
    assert executor.jobs is None
    executor.jobs = 1
    states = Runner(plan, executor).run()
    assert list(states.values()) == ["finished", "diverged"]
    script = (tmp_path / "sbatch.0").read_text()
    assert "#SBATCH --partition=cpu" in script
    assert "-m mm1.cli train" in script


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        ((), 1),
        (("--nodes", "2"), 1),
        (("--on=here",), 1),
        (("--nodes", "2", "--on", "slurm"), None),
        (("--on=slurm",), None),
    ],
)
def test_a_scheduler_decides_how_many_run_at_a_time(
    options: tuple[str, ...], jobs: int | None
) -> None:
    assert LaunchExecutor(options).jobs == jobs
    assert LaunchExecutor(options, 3).jobs == 3


def test_impossible_requests_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        study_by_name(
            ["miniature_text"], tmp_path, seeds=[0], on="ray", ask=["8"]
        )
    with pytest.raises(ConfigError, match="needs --on ray"):
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
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="pip install"):
        RayExecutor()
