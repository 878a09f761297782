"""Runs whose folder is at an object store: the same bytes as in a folder, whatever
happens on the way; against an S3 server on loopback."""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from object_store import (
    ObjectStore,
    expired,
    overloaded,
    reset,
    running_store,
)
from ranks import on_ranks
from worlds import contrastive, make_world, text_only

from mm1 import dist, object_lease
from mm1.catalog import run_config
from mm1.config import ConfigError
from mm1.eval.evaluate import evaluate_run
from mm1.eval.zero_shot_classification import ZeroShotClassification
from mm1.export.export_run import export_run
from mm1.folder_lock import FolderInUse, FolderLock
from mm1.loader.loader import StepBatches
from mm1.miniature.classes import MiniatureClasses
from mm1.object_lease import LeaseRecord
from mm1.runs.layout import checkpoint_steps
from mm1.runs.results import RunFolder
from mm1.runs.weights import load_model
from mm1.storage.remote_path import RemotePath
from mm1.storage.requests import StorageError, StorageUnavailable
from mm1.train.checkpoint import SaveFailed
from mm1.train.shutdown import Interrupted
from mm1.train.trainer import Trainer

pytestmark = pytest.mark.slow
SETTINGS = ("AWS_", "MM1_STORAGE_")
"""Variables that ranks need, too: they are forked from a server that started before."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a folder that nothing has happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    config_of(world).build(folder=folder).fit()
    return folder


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setattr(object_lease, "SETTLE_SECONDS", 0.0)
    with running_store(monkeypatch) as store:
        yield store


def config_of(world: Path, **fields: Any) -> Trainer.Config:
    config = text_only(
        world,
        **(
            {"steps": 6, "log_every": 1, "checkpoint_every": 2}
            | {"keep_checkpoints": 2}
            | fields
        ),
    )
    config.loader.micro_batch_size = 1
    return config


def assert_same(one: Path, two: Path) -> None:
    for name in (
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "checksums.json",
        "checkpoints/step-00000006/__0_0.distcp",
        "checkpoints/step-00000006/progress.json",
    ):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def at_step(trainer: Trainer, step: int, number: int) -> None:
    """Sends a signal to this process in the middle of a step."""
    train_step = trainer.train_step

    def happens(data: StepBatches) -> None:
        train_step(data)
        if trainer.step == step - 1:
            os.kill(os.getpid(), number)

    trainer.train_step = happens  # type: ignore[method-assign]


def test_a_run_equals_one_in_a_folder_and_a_copy_of_it_is_one(
    world: Path, whole: Path, store: ObjectStore, tmp_path: Path
) -> None:
    """Interrupted between checkpoints, and resumed from nothing but the objects."""
    run = store.folder("runs/a")
    trainer = config_of(world).build(folder=run)
    at_step(trainer, 3, signal.SIGUSR1)
    with pytest.raises(Interrupted):
        trainer.fit()
    assert trainer.checkpoints.steps() == [2, 3]
    assert not (run / "writer.lock").exists()
    config_of(world).build(folder=run, resume=True).fit()
    # The list of shards has the place and a random number of each save.
    sums = json.loads(
        (run / "checkpoints/step-00000006/checksums.json").read_text()
    )
    assert sums.keys() == {"__0_0.distcp", "progress.json", ".metadata"}
    assert_same(whole, run)
    assert files_of(run) == files_of(whole)

    # torch's own reader of fsspec, and a copy in a folder, have the same.
    path = f"{run}/checkpoints/step-00000006"
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    weights = trainer.model.state_dict()
    read = {"model": {k: torch.zeros_like(v) for k, v in weights.items()}}
    dcp.load(
        read,
        storage_reader=FsspecReader(path, skip_instance_cache=True),
    )
    copy = tmp_path / "copy"
    for name in files_of(run):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((run / name).read_bytes())
    (copy / "model.safetensors").unlink()
    again = config_of(world).build(folder=copy, resume=True)
    own = again.model.state_dict()
    assert all(torch.equal(read["model"][name], own[name]) for name in own)
    again.fit()
    assert_same(whole, copy)


def hold(folder: RemotePath, record: LeaseRecord) -> None:
    (folder / "writer.lock").write_text(json.dumps(asdict(record)))


def test_two_writers_do_not_meet(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that lives keeps others out; what one has left that is gone keeps nobody
    out."""
    dist.start()
    monkeypatch.setattr(object_lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(object_lease, "POLL_SECONDS", 0.02)
    folder = store.folder("runs/locked")
    other = LeaseRecord(12, "elsewhere", "its token")
    hold(folder, other)
    timer = Timer(0.3, lambda: hold(folder, replace(other, beat=7)))
    timer.start()
    with pytest.raises(FolderInUse, match="process 12 on elsewhere writes"):
        FolderLock(folder).__enter__()
    timer.join()
    monkeypatch.setattr(object_lease, "EXPIRY_SECONDS", 0.3)
    with FolderLock(folder) as lock:
        with pytest.raises(FolderInUse):
            FolderLock(folder).__enter__()  # its number is this process's
        lock.check()
        hold(folder, other)
        time.sleep(0.5)
        with pytest.raises(FolderInUse, match="now held by process 12"):
            lock.check()
    gone = LeaseRecord(2**22 + 1, object_lease.this_host(), "a token")
    for content in (json.dumps(asdict(gone)), "", "[1]"):
        (folder / "writer.lock").write_text(content)
        start = time.monotonic()
        with FolderLock(folder):
            assert time.monotonic() - start < 5
    assert not (folder / "writer.lock").exists()


def files_of(run: Path) -> set[str]:
    return {
        path.relative_to(run).as_posix()
        for path in run.rglob("*")
        if path.is_file()
    }


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_only_whole_checkpoints_count(
    world: Path,
    whole: Path,
    store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A damaged one is set aside, an unfinished one deleted, and the one before is
    used."""
    run = store.upload(whole, "runs/damaged")
    unfinished = run / "checkpoints" / "step-00000008"
    (unfinished / "__0_0.distcp").write_bytes(b"half of it")
    spoil(run / "checkpoints" / "step-00000006" / "__0_0.distcp")
    trainer = config_of(world).build(folder=run, resume=True)
    assert trainer.step == 4
    assert trainer.checkpoints.steps() == [4]
    said = capsys.readouterr().err
    assert (
        "step-00000006 is damaged: __0_0.distcp is damaged: its bytes" in said
    )
    assert "resumes from step 4" in said
    assert not unfinished.exists()
    trainer.fit()
    assert_same(whole, run)
    for name in ("__0_0.distcp", "progress.json"):
        (run / "checkpoints" / "step-00000006" / name).unlink()
    (run / "checkpoints" / "step-00000004" / "checksums.json").write_text("{")
    with pytest.raises(ConfigError) as error:
        config_of(world).build(folder=run, resume=True)
    line = str(error.value)
    assert "has no checkpoint that is whole" in line
    assert "step-00000006: __0_0.distcp cannot be read" in line
    assert "step-00000004: checksums.json is damaged" in line
    assert "\n" not in line
    assert not (run / "writer.lock").exists()


@pytest.mark.parametrize(
    "fault",
    [
        expired,
        pytest.param(overloaded, marks=pytest.mark.long),
    ],
)
def test_a_checkpoint_that_cannot_be_put_costs_no_step(
    fault: Any,
    world: Path,
    whole: Path,
    store: ObjectStore,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = store.folder("runs/unreachable")
    trainer = config_of(world).build(folder=run)
    store.fault(fault, "step-00000004/__0_0", method="PUT")
    trainer.fit()
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "could not be saved" in line]
    assert len(lines) == 1, said
    assert f"{run}/checkpoints/step-00000004 could not be saved" in lines[0]
    assert "training goes on, tries again at the next checkpoint" in lines[0]
    assert trainer.checkpoints.steps() == [2, 6]
    assert_same(whole, run)


@pytest.mark.long
def test_a_store_that_is_gone_ends_training_with_what_was_saved(
    world: Path, store: ObjectStore
) -> None:
    run = store.folder("runs/gone")
    trainer = config_of(world, steps=12).build(folder=run)
    store.fault(reset, "step-", method="PUT", skip=5)
    with pytest.raises(SaveFailed, match=r"see to the object store") as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("with --resume from step 2")
    store.faults.clear()
    config_of(world, steps=12).build(folder=run, resume=True).fit()
    assert (run / "model.safetensors").is_file()


def test_a_bucket_that_is_missing_is_one_line(
    world: Path, store: ObjectStore
) -> None:
    with pytest.raises(FileNotFoundError, match="no bucket s3://nowhere") as e:
        config_of(world).build(folder=RemotePath("s3://nowhere/run"))
    assert "\n" not in str(e.value)


def fit(
    variables: dict[str, str],
    world: Path,
    run: Path,
    what: str = "",
    resume: bool = False,
) -> None:
    """On one of several ranks, which share no folder for temporary files."""
    os.environ |= variables
    own = world.parent / f"rank {dist.rank()} {os.getpid()}"
    own.mkdir()
    tempfile.tempdir = str(own)
    trainer = config_of(world).build(folder=run, resume=resume)
    if what == "signal" and os.environ["RANK"] == "1":
        at_step(trainer, 3, signal.SIGTERM)
    if what == "kill":
        at_step(trainer, 5, signal.SIGKILL)
    if what == "signal":
        with pytest.raises(Interrupted):
            trainer.fit()
    else:
        trainer.fit()


@pytest.mark.long
def test_ranks_that_share_nothing_but_the_store(
    world: Path, store: ObjectStore, tmp_path: Path
) -> None:
    """Stopped, resumed and killed, resumed: the bytes of a run in a folder; and resumed
    by one rank where two were."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(SETTINGS)
    }
    on_ranks(2, fit, {}, world, tmp_path / "whole")
    run = store.folder("runs/ranks")
    on_ranks(2, fit, variables, world, run, "signal")
    assert checkpoint_steps(run) == [2, 3]
    killed = [-signal.SIGKILL] * 2
    on_ranks(2, fit, variables, world, run, "kill", True, codes=killed)
    assert checkpoint_steps(run)[-1] < 6
    for name in files_of(run):
        store.folder("runs/one").joinpath(name).write_bytes(
            (run / name).read_bytes()
        )
    on_ranks(2, fit, variables, world, run, "", True)
    assert_same(tmp_path / "whole", run)
    config_of(world).build(folder=store.folder("runs/one"), resume=True).fit()
    one, two = (
        [
            json.loads(line)["loss"]
            for line in text.splitlines()
            if "loss" in line
        ]
        for text in (
            (folder / "metrics.jsonl").read_text()
            for folder in (run, store.folder("runs/one"))
        )
    )
    assert one == pytest.approx(two, rel=1e-4)


def test_other_stages_read_a_run_there(
    world: Path,
    whole: Path,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its weights are fetched once, and those that are damaged are not used."""
    monkeypatch.setenv("MM1_CACHE", str(tmp_path / "cache"))
    run = store.upload(whole, "runs/whole")
    here, there = (
        config_of(world, init={"decoder": str(folder)})
        .build(folder=tmp_path / folder.parent.name)
        .model.state_dict()
        for folder in (whole, run)
    )
    assert all(torch.equal(here[name], there[name]) for name in here)
    for folder in (whole, run):
        export_run(folder, tmp_path / f"exported {folder.parent.name}")
    one, two = (
        (tmp_path / f"exported {folder.parent.name}" / "model.safetensors")
        for folder in (whole, run)
    )
    assert one.read_bytes() == two.read_bytes()
    fetched = [r for r in store.requests if r == f"GET {whole_path(run)}"]
    assert len(fetched) == 1
    assert run_config(str(run)) == run_config(str(whole))
    lines = RunFolder(run).curve("loss")
    assert lines == RunFolder(whole).curve("loss") != []
    (tmp_path / "cache" / noted_hash(whole)).unlink()
    spoil(run / "model.safetensors")
    with pytest.raises(StorageError, match="is not what its folder says") as e:
        load_model(run, torch.device("cpu"))
    assert str(run / "model.safetensors") in str(e.value)
    assert "\n" not in str(e.value)


def whole_path(run: RemotePath) -> str:
    return str(run / "model.safetensors").removeprefix("s3:/")


def noted_hash(run: Path) -> str:
    noted = json.loads((run / "checksums.json").read_text())
    return noted["model.safetensors"][-1]["xxh3_128"]


@pytest.mark.long
def test_a_run_is_evaluated_there_and_finishes_once_the_store_takes_its_weights(
    world: Path,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MM1_CACHE", str(tmp_path / "cache"))
    benchmark = ZeroShotClassification.Config(
        data=MiniatureClasses.Config(num_test=6)
    )
    config = contrastive(world, steps=2, benchmarks={"digit": benchmark})
    config.build(folder=tmp_path / "run").fit()
    run = store.folder("runs/measured")
    store.fault(reset, "model.safetensors", method="PUT")
    with pytest.raises(StorageUnavailable, match=r"model\.safetensors") as e:
        config.build(folder=run).fit()
    assert "\n" not in str(e.value)
    assert not (run / "writer.lock").exists()
    store.faults.clear()
    config.build(folder=run, resume=True).fit()
    assert files_of(run) - {"speed.jsonl"} == files_of(tmp_path / "run") - {
        "speed.jsonl"
    }
    for name in ("model.safetensors", "scores.json", "metrics.jsonl"):
        assert (run / name).read_bytes() == (
            tmp_path / "run" / name
        ).read_bytes()
    scores = json.loads((run / "scores.json").read_text())
    assert evaluate_run(run, run_config(str(run))) == scores
