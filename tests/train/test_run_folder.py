"""A run's folder: one writer, and nothing written before the run is built."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from worlds import make_world, text_only

from mm1.config import UserError
from mm1.folder_lock import FolderInUse, FolderLock
from mm1.overrides import override
from mm1.runs.description import read_config, write_config
from mm1.train.trainer import Trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


NOT_TO_BE_BUILT = {
    "no data": "loader.sources.text=gone",
    "no run to start from": "init.decoder=gone",
    "no such part": "optimizer.lr_factors.decodr=0.1",
    "batches that do not divide": "loader.batch_size=3",
    "no such part to freeze": "frozen=('encodr',)",
    "weights that do not sum": "loader.weights.text=0.5",
}


@pytest.mark.parametrize(
    "assignment", NOT_TO_BE_BUILT.values(), ids=NOT_TO_BE_BUILT
)
def test_a_start_that_fails_leaves_no_folder(
    assignment: str, world: Path, tmp_path: Path
) -> None:
    config = text_only(world, steps=1)
    override(config, assignment)
    with pytest.raises((UserError, OSError)):
        config.build(folder=tmp_path / "runs" / "first")
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_failed_claims_no_folder(
    world: Path, tmp_path: Path
) -> None:
    config = text_only(world, steps=1)
    tmp_path.joinpath("log.txt").touch()  # as a study has made it
    override(config, "loader.sources.text=gone")
    with pytest.raises(OSError, match="gone"):
        config.build(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]
    text_only(world, steps=1).build(folder=tmp_path).fit()


@pytest.fixture(scope="module")
def stopped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    text_only(world, steps=2, log_every=1).build(folder=folder).fit()
    return folder


@pytest.mark.parametrize(
    "assignment",
    [
        "loader.batch_size=7",
        "loader.sources.text=gone",
        "optimizer.lr_factors.decodr=0.1",
        "model.decoder.dim=48",
        "seed=5",
    ],
)
def test_a_refused_resume_leaves_the_folder_as_it_was(
    assignment: str, stopped: Path
) -> None:
    before = contents(stopped)
    config: Any = read_config(stopped)
    config.steps = 3
    override(config, assignment)
    with pytest.raises((UserError, OSError)):
        config.build(folder=stopped, resume=True).fit()
    assert contents(stopped) == before


def test_a_folder_has_one_writer(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = text_only(world, steps=2).build(folder=folder)
    with pytest.raises(FolderInUse, match=f"process {os.getpid()} on"):
        text_only(world, steps=2).build(folder=folder, resume=True)
    first.fit()
    assert not (folder / "writer.lock").exists()
    text_only(world, steps=3).build(folder=folder, resume=True).fit()


def test_a_run_that_fails_lets_go_of_its_folder(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = text_only(world, steps=2).build(folder=tmp_path)

    def fail(self: Trainer, data: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            run.fit()
    with FolderLock(tmp_path):
        pass


def test_a_run_whose_folder_was_taken_over_writes_no_more(
    world: Path, tmp_path: Path
) -> None:
    run = text_only(world, steps=4).build(folder=tmp_path)
    (tmp_path / "writer.lock").unlink()
    before = contents(tmp_path)
    with pytest.raises(FolderInUse, match="this one stops"):
        run.fit()
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_the_second_of_two_resumes_is_one_line(
    world: Path, tmp_path: Path
) -> None:
    """As two terminals do it."""
    folder = tmp_path / "run"
    config = text_only(world, steps=100_000, checkpoint_every=2, log_every=1)
    write_config(tmp_path / "config", config)
    stored = str(tmp_path / "config" / "config.json")
    command = [sys.executable, "-m", "mm1.cli", "train", stored]
    command += ["--out", str(folder), "--resume"]
    with (tmp_path / "log.txt").open("w") as log:
        first = subprocess.Popen(command, stderr=log)
    try:
        while not any((folder / "checkpoints").glob("step-*[0-9]")):
            assert first.poll() is None, (tmp_path / "log.txt").read_text()
            time.sleep(0.1)
        second = subprocess.run(
            command, capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        last = second.stderr.strip().splitlines()[-1]
        host = os.uname().nodename
        assert last.startswith(f"mm1: process {first.pid} on {host} writes to")
    finally:
        first.kill()
        first.wait()
    config.steps = 1 + max(
        int(path.name[5:])
        for path in (folder / "checkpoints").glob("step-*[0-9]")
    )
    config.build(folder=folder, resume=True).fit()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if 'loss"' in line]
    assert steps == list(range(1, config.steps + 1))
