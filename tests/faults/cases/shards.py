"""Prepared folders that a loader opens, or has in use."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from worlds import make_world, pretrain

from cases import Case, plain, refused
from mm1.config import ConfigError
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import Tokenizer
from mm1.infer.trained_model import make_renderer
from mm1.loader.loader import StepBatches


def steps(folder: Path, workers: int = 0) -> Iterator[StepBatches]:
    run = pretrain(folder)
    loader = replace(run.loader, workers=workers)  # type: ignore[type-var]
    tokenizer = Tokenizer.Config(path=loader.tokenizer()).build()
    renderer = make_renderer(
        run.model.build(vocab_size=tokenizer.vocab_size), tokenizer, loader
    )
    return loader.build(renderer=renderer, seed=0).steps(
        None, rank=0, world_size=1
    )


def world(folder: Path) -> Path:
    """A copy of one that is made once for all cases."""
    made = folder.parent / "world"
    if not made.is_dir():
        make_world(made)
    return shutil.copytree(made, folder, dirs_exist_ok=True)


def opening(spoil: Callable[[Path], object]) -> Case:
    """The first step of a loader, after something was done to the folder of
    captions."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        spoil(world(folder) / "captions")
        return refused(lambda: next(steps(folder)), folder)

    return case


def reading(spoil: Callable[[Path], object], workers: int = 0) -> Case:
    """The second epoch of a loader that has all shards open."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        loader = steps(world(folder), workers)
        next(loader)
        spoil(folder / "captions")
        try:
            for _ in range(25):
                next(loader)
        except ConfigError as error:
            return f"error: {plain(str(error), folder)}"
        return "the loader keeps reading the file it has open"

    return case


def shard(folder: Path) -> Path:
    return folder / "train" / "00000-000.arrow"


def change(folder: Path) -> None:
    """Other bytes of the same number, written into the file."""
    size = shard(folder).stat().st_size
    with shard(folder).open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(100))
    os.utime(shard(folder), ns=(0, 0))  # clocks of file systems are coarse


def lengths(folder: Path) -> Path:
    return folder / "train" / "image_offsets.npy"


def change_lengths(folder: Path) -> None:
    with lengths(folder).open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(bytes(8))
    os.utime(lengths(folder), ns=(0, 0))


def shorten(folder: Path) -> None:
    os.truncate(shard(folder), shard(folder).stat().st_size // 2)


def replace_whole(folder: Path) -> None:
    (new := folder / "new").write_bytes(b"another file")
    new.replace(shard(folder))


def spoil_a_picture(folder: Path) -> None:
    data = shard(folder).read_bytes()
    shard(folder).write_bytes(data.replace(b"\xff\xd8\xff\xe0", b"\0\0\0\0"))


def edit(**changes: object) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def killed(planner: bool) -> Case:
    """The process that plans is killed, or the worker that loads."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        loader = steps(world(folder), workers=1)
        next(loader)
        (process,) = [
            child
            for child in multiprocessing.active_children()
            if (child.name == "planner") == planner
        ]
        process.kill()
        # what was planned before is trained on first
        return refused(lambda: list(islice(loader, 200)), folder)

    return case


def no_such_split(folder: Path, _: pytest.MonkeyPatch) -> str:
    return refused(lambda: Shards(world(folder) / "text", "validaton"), folder)


CASES: dict[str, Case] = {
    "opened: a shard is missing": opening(
        lambda folder: shard(folder).unlink()
    ),
    "opened: a shard is too short": opening(shorten),
    "opened: lengths are missing": opening(
        lambda folder: lengths(folder).unlink()
    ),
    "opened: no manifest": opening(
        lambda folder: (folder / "manifest.json").unlink()
    ),
    "opened: no folder": opening(
        lambda folder: folder.rename(folder.with_name("moved"))
    ),
    "opened: another version's format": opening(edit(format=99)),
    "opened: tokenised otherwise": opening(edit(tokenizer="0123456789abcdef")),
    "opened: an unknown split": no_such_split,
    "opened: an image damaged after it was prepared": opening(spoil_a_picture),
    "in use: a shard is deleted": reading(
        lambda folder: shard(folder).unlink()
    ),
    "in use: a shard is replaced": reading(replace_whole),
    "in use: a shard is only touched": reading(
        lambda folder: os.utime(shard(folder), ns=(0, 0))
    ),
    "in use: a shard is written to": reading(change),
    "in use: a shard becomes shorter": reading(shorten),
    "in use: a shard is written to, read by a worker": reading(
        change, workers=1
    ),
    "in use: lengths are written to": reading(change_lengths),
    "in use: a worker is killed (`kill -9`)": killed(planner=False),
    "in use: the process that plans is killed (`kill -9`)": killed(
        planner=True
    ),
}
