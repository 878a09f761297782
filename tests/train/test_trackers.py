"""Trackers get what metrics.jsonl gets, and know a run again when it is resumed."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from worlds import make_world, text_only

from mm1.config import ConfigError
from mm1.runs.trackers import TrackerName


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def train(world: Path, folder: Path, tracker: TrackerName, steps: int) -> None:
    config = text_only(world, steps=steps, trackers=(tracker,), log_every=1)
    config.build(folder=folder, resume=folder.exists()).fit()


def test_tensorboard_gets_what_metrics_jsonl_gets(
    world: Path, tmp_path: Path
) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard",
    )
    train(world, tmp_path / "run", "tensorboard", 4)
    log = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    log.Reload()
    assert {"loss", "lr", "tokens_per_second", "validation"} <= set(
        log.Tags()["scalars"]
    )
    assert [event.step for event in log.Scalars("loss")] == [1, 2, 3, 4]


def test_tensorboard_drops_the_steps_that_come_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard",
    )
    folder = tmp_path / "run"
    train(world, folder, "tensorboard", 2)
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard")) as killed:
        for step in (3, 4, 5):  # after the last checkpoint
            killed.add_scalar("loss", 99.0, step)
    train(world, folder, "tensorboard", 4)
    log = events.EventAccumulator(str(folder / "tensorboard"))
    log.Reload()
    losses = {event.step: event.value for event in log.Scalars("loss")}
    assert list(losses) == [1, 2, 3, 4]
    assert 99.0 not in losses.values()


class Recorder(types.ModuleType):
    """Stands in for a tracker's package."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.__spec__ = types.SimpleNamespace()  # type: ignore[assignment]

    def init(self, **options: Any) -> "Recorder":
        self.runs.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_run_has_an_id_of_its_own_which_it_keeps(
    tracker: TrackerName,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = Recorder(tracker)
    monkeypatch.setitem(sys.modules, tracker, package)
    monkeypatch.setenv(f"{tracker.upper()}_PROJECT", "pictures")
    train(world, tmp_path / "a" / "run", tracker, 2)
    train(world, tmp_path / "a" / "run", tracker, 3)
    train(world, tmp_path / "b" / "run", tracker, 1)
    key = "id" if tracker == "wandb" else "name"
    first, again, other = (run[key] for run in package.runs)
    assert first == again
    assert first != other
    assert {run["resume"] for run in package.runs} == {"allow"}
    assert {run["project"] for run in package.runs} == {"pictures"}
    assert package.runs[1]["config"]["steps"] == 3
    assert package.runs[0]["config"]["optimizer"]["peak_lr"] == 1e-2
    assert {step for step, _ in package.logged} == {1, 2, 3}
    assert any("loss" in values for _, values in package.logged)
    ids = json.loads((tmp_path / "a" / "run" / "trackers.json").read_text())
    assert list(ids) == [tracker]


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_written(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs wandb: .*mm1\[log"):
        train(world, tmp_path / "run", "wandb", 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_trackio_itself_goes_on_with_a_run(world: Path, tmp_path: Path) -> None:
    """Offline, in processes of its own: trackio writes its data where it is told when
    it is imported."""
    pytest.importorskip("trackio", reason="needs trackio")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from worlds import text_only\n"
        "world, folder, steps = sys.argv[1:]\n"
        "c = text_only(Path(world), steps=int(steps), trackers=('trackio',))\n"
        "c.build(folder=Path(folder), resume=Path(folder).exists()).fit()\n"
        "import trackio; trackio.finish()\n"
    )
    environment = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[1]), *sys.path]
        ),
    }
    for steps in ("2", "4"):
        command = [
            sys.executable,
            str(script),
            str(world),
            str(tmp_path / "run"),
        ]
        done = subprocess.run(
            [*command, steps],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    import sqlite3

    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT run_name, step FROM metrics").fetchall()
    assert len({name for name, _ in rows}) == 1
    assert {step for _, step in rows} == {2, 4}
