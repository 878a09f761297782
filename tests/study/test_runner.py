"""How the runs of a plan end, with a stand-in for training."""

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mm1.config import ConfigError, UserError
from mm1.study.executors import LocalExecutor
from mm1.study.plan import StudyPlan, attempts
from mm1.study.runner import Runner
from mm1.train.trainer import Trainer

FAKE = (sys.executable, str(Path(__file__).with_name("fake_train.py")))


def config(
    rate: float, init: Mapping[str, str] | None = None, **fields: Any
) -> Trainer.Config:
    run = Trainer.Config(init=dict(init or {}), **fields)
    run.optimizer.peak_lr = rate
    return run


def outcome(plan: StudyPlan, jobs: int = 2) -> dict[str, str]:
    return {
        Path(run).name: state
        for run, state in Runner(plan, LocalExecutor(jobs, FAKE)).run().items()
    }


def test_equal_configs_are_one_run_wherever_the_folder_lies(
    tmp_path: Path,
) -> None:
    names = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        plan = StudyPlan(folder)
        encoder = plan.add("encoder", config(0.5))
        joint = plan.add("joint", config(0.5, {"encoder": encoder}))
        assert plan.add("encoder", config(0.5)) == encoder
        assert plan.add("encoder", config(0.5, seed=1)) != encoder
        assert plan.origins(joint) == [encoder]
        names.append([Path(run).name for run in plan.runs])
    assert names[0] == names[1]


def test_overrides_reach_their_stage(tmp_path: Path) -> None:
    plan = StudyPlan(tmp_path, ["steps=7", "joint:seed=5"])
    encoder, joint = (
        plan.add(stage, config(0.5)) for stage in ("encoder", "joint")
    )
    assert [
        (plan.runs[run].steps, plan.runs[run].seed) for run in (encoder, joint)
    ] == [(7, 0), (7, 5)]
    plan.check()
    mistyped = StudyPlan(tmp_path, ["jiont:seed=5"])
    mistyped.add("joint", config(0.5))
    with pytest.raises(ConfigError, match="did you mean 'joint'"):
        mistyped.check()


def test_a_difference_reaches_into_the_runs_that_rows_start_from(
    tmp_path: Path,
) -> None:
    plan = StudyPlan(tmp_path)
    encoders = [
        plan.add("encoder", config(0.5, steps=steps)) for steps in (10, 20)
    ]
    one, two = (
        plan.add("joint", config(0.5, {"encoder": e, "decoder": e}))
        for e in encoders
    )
    assert plan.difference(one, two) == {
        "steps (run of encoder and decoder)": (10, 20)
    }


def test_each_run_ends_in_its_own_state_and_the_others_continue(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = StudyPlan(tmp_path)
    good, bad, broken = (
        plan.add(stage, config(r))
        for stage, r in (("good", 0.5), ("bad", 3.0), ("broken", 1.0))
    )
    plan.add("on-good", config(0.5, {"encoder": good}))
    plan.add("on-bad", config(0.5, {"encoder": bad}))
    plan.add("on-broken", config(0.5, {"encoder": broken}))
    states = {
        name.rpartition("-")[0]: state for name, state in outcome(plan).items()
    }
    assert states == {
        "good": "finished",
        "bad": "diverged",
        "broken": "failed",
        "on-good": "finished",
        "on-bad": "not run",
        "on-broken": "not run",
    }
    said = capfd.readouterr().err
    assert f"{broken}/log.txt ends with: out of memory" in said
    assert "about 0 min left" in said
    outcome(plan)  # a second call retries what failed, and nothing else
    assert [len(attempts(run)) for run in (good, bad, broken)] == [1, 1, 2]
    assert "fake run 3.0" in (Path(bad) / "log.txt").read_text()


def test_interrupted_runs_save_and_resume_with_the_next_call(
    tmp_path: Path,
) -> None:
    plan = StudyPlan(tmp_path)
    run = Path(plan.add("long", config(9.0)))

    def interrupt() -> None:
        while not (run / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        outcome(plan)
    thread.join()
    assert (run / "saved").exists()
    assert attempts(run)[0]["code"] == 130
    assert set(outcome(plan).values()) == {"finished"}


def test_a_run_that_an_earlier_call_still_trains_is_not_started_twice(
    tmp_path: Path,
) -> None:
    plan = StudyPlan(tmp_path)
    run = Path(plan.add("long", config(9.0)))
    # As if the first call had been killed after it started the run.
    orphan = Runner(plan, LocalExecutor(1, FAKE))
    orphan._start()
    with pytest.raises(UserError, match="being trained by an earlier call"):
        outcome(plan)
    while not (run / "ready").exists():
        time.sleep(0.01)
    orphan._stop()
    assert (run / "started").read_text().count("\n") == 1
