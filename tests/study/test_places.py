"""Runs of a study as jobs of submitit (which plays Slurm on this machine) and as tasks
of a local Ray."""

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

from mm1.catalog import study_command
from mm1.config import ConfigError, UserError
from mm1.study.places import JOB, OnRay, OnSlurm, Place, Work
from mm1.study.plan import Plan, attempts
from mm1.study.runner import Runner
from mm1.train.trainer import Trainer

FAKE = (sys.executable, str(Path(__file__).with_name("fake_train.py")))


def add(plan: Plan, rate: float, **init: str) -> str:
    run = Trainer.Config(init=init)
    run.optimizer.peak_lr = rate
    return plan.add("run", run)


@pytest.fixture(params=["slurm", "ray"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "slurm":
        pytest.importorskip("submitit", reason="pip install 'mm1[slurm]'")
        # What a shell starts in the background ignores SIGINT and hands that on: a
        # cancelled job would not notice.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield OnSlurm(
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
    yield OnRay(None, FAKE, {"num_cpus": 1})
    ray.shutdown()


def test_each_run_ends_as_it_does(tmp_path: Path, place: Place) -> None:
    plan = Plan(tmp_path)
    good, bad, broken = (add(plan, rate) for rate in (0.5, 3.0, 1.0))
    after = add(plan, 0.5, encoder=good)
    states = Runner(plan, place).run()
    assert states == {
        good: "finished",
        bad: "diverged",
        broken: "failed",
        after: "finished",
    }
    assert "out of memory" in (Path(broken) / "log.txt").read_text()


def test_interrupted_runs_save_and_go_on(tmp_path: Path, place: Place) -> None:
    plan = Plan(tmp_path)
    run = Path(add(plan, 9.0))

    def interrupt() -> None:
        while not (run / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        Runner(plan, place).run()
    thread.join()
    with (run / "log.txt").open(
        "a"
    ) as log:  # Slurm's stand-in kills a job after a second, and the run saves yet
        fcntl.flock(log, fcntl.LOCK_EX)
    assert (run / "saved").exists()
    assert len(attempts(run)) == 1
    assert set(Runner(plan, place).run().values()) == {"finished"}


def test_an_interrupt_while_a_process_is_started_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work((sys.executable, "-c", "import time; time.sleep(60)"), tmp_path, {})
    start = Work.start

    def interrupted(self: Work) -> subprocess.Popen:
        process = start(self)
        os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(Work, "start", interrupted)
    assert work() == -signal.SIGTERM


def test_a_job_near_its_time_limit_saves_and_is_queued_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="pip install 'mm1[slurm]'")
    plan = Plan(tmp_path)
    run = add(plan, 9.0)
    runner = Runner(
        plan,
        OnSlurm(tmp_path / "slurm", None, FAKE, {"timeout_min": 5}, cluster="local"),
    )

    def signalled() -> None:
        while not (Path(run) / "ready").exists():
            time.sleep(0.01)
        controller = (Path(run) / JOB).read_text()
        (task,) = (
            Path(f"/proc/{controller}/task/{controller}/children").read_text().split()
        )
        os.kill(int(task), signal.SIGUSR2)  # as Slurm does, to the task itself

    thread = threading.Thread(target=signalled)
    thread.start()
    assert runner.run() == {run: "finished"}
    thread.join()
    assert (Path(run) / "saved").exists()
    assert (Path(run) / "started").read_text().count("\n") == 2


def test_a_second_call_waits_for_a_job_that_is_still_queued(tmp_path: Path) -> None:
    """As Slurm has it; here submitit forgets jobs whose process is not its child, so
    one object makes both calls."""
    pytest.importorskip("submitit", reason="pip install 'mm1[slurm]'")
    place = OnSlurm(tmp_path / "slurm", None, (), {}, cluster="local")
    folder = tmp_path / "run"
    folder.mkdir()
    work = Work(
        (sys.executable, "-c", "import time; time.sleep(1); raise SystemExit(3)"),
        folder,
        {},
    )
    first = place.start(work)
    kind = place.executor.job_class
    known = {(folder / JOB).read_text(): first}
    place.executor.job_class = lambda _, number: known[number].job  # type: ignore[method-assign]
    second = place.start(work)
    place.executor.job_class = kind
    assert second.wait() == first.wait() == 3


def test_wishes_that_nobody_grants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="timeout_min"):
        OnSlurm(tmp_path, None, (), {"timeout_min": "2:00"}, cluster="local")
    with pytest.raises(UserError, match="gpus_per_nod"):
        OnSlurm(tmp_path, None, (), {"gpus_per_nod": 8}, cluster="local")
    with pytest.raises(UserError, match="one task on one node"):
        OnSlurm(tmp_path, None, (), {"nodes": 2}, cluster="local")
    with pytest.raises(ConfigError, match="NAME=VALUE"):
        study_command(["miniature_text"], tmp_path, seeds=[0], on="slurm", ask=["8"])
    with pytest.raises(ConfigError, match="--on slurm or ray"):
        study_command(["miniature_text"], tmp_path, seeds=[0], ask=["gpus_per_node=8"])
    with pytest.raises(UserError, match="detect"):
        study_command(["miniature_text"], tmp_path, seeds=[0], on="slurm")
    for name, make in (("submitit", lambda: OnSlurm(tmp_path)), ("ray", OnRay)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match="pip install"):
            make()
