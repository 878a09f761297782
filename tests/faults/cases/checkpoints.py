"""Checkpoints and weights of a run: every file has its size and hash in
`checksums.json`."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import filesystem
from worlds import make_world, text_only

from cases import Case, plain, refused
from mm1 import dist
from mm1.runs.weights import load_model, load_part
from mm1.runs.weights_writer import write_weights
from mm1.train.checkpoint import Checkpoints
from mm1.train.checkpoint_files import CheckpointFolder
from mm1.train.trainer import Trainer
from mm1.weight_files import SafetensorsWriter

Spoil = Callable[[Path], object]


def hear(said: list[str]) -> Callable[..., None]:
    """What is said of faults, and not what a run states before its first step."""

    def say(*words: str) -> None:
        line = " ".join(words)
        if not line.startswith("  "):
            said.append(line)

    return say


def run_config(folder: Path) -> Trainer.Config:
    return text_only(
        folder.parent / "small world",
        steps=6,
        checkpoint_every=2,
        keep_checkpoints=3,
    )


@cache
def whole(parent: Path) -> Path:
    """A finished run with three checkpoints, made once for all cases."""
    folder = parent / "whole run"
    if not folder.is_dir():
        make_world(parent / "small world")
        run_config(folder).build(folder=folder).fit()
    return folder


def copy(folder: Path) -> Path:
    return Path(shutil.copytree(whole(folder.parent), folder / "run"))


def checkpoint(run: Path, step: int = 6) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def same_bytes(run: Path, reference: Path) -> bool:
    return all(
        (run / name).read_bytes() == (reference / name).read_bytes()
        for name in ("model.safetensors", "metrics.jsonl", "config.json")
    )


def resumed(folder: Path, patch: pytest.MonkeyPatch) -> str:
    """Resumes the run to its end: what was said, without the progress of training."""
    run = folder / "run"
    said: list[str] = []
    patch.setattr(dist, "say", hear(said))
    (run / "model.safetensors").unlink(missing_ok=True)
    run_config(folder).build(folder=run, resume=True).fit()
    assert same_bytes(run, whole(folder.parent))
    lines = [line for line in said if "loss" not in line]
    assert lines or not list(run.glob("checkpoints/*.damaged"))
    words = scrubbed(". ".join(lines), folder) or "resumed"
    return f"{words}; ends with the same bytes"


def damaged(*spoils: Spoil, to_the_end: bool = False) -> Case:
    """Of the newest checkpoint, the one before, and so on."""

    def case(folder: Path, patch: pytest.MonkeyPatch) -> str:
        run = copy(folder)
        for number, spoil in enumerate(spoils):
            spoil(checkpoint(run, 6 - 2 * number))
        outcome = (
            resumed(folder, patch) if to_the_end else chosen(folder, patch)
        )
        left = {path.name for path in (run / "checkpoints").glob("step-*")}
        for number in range(len(spoils)):
            assert f"{checkpoint(run, 6 - 2 * number).name}.damaged" in left
        return outcome

    return case


def chosen(folder: Path, patch: pytest.MonkeyPatch) -> str:
    """What is said as a checkpoint to resume from is chosen."""
    dist.start()
    said: list[str] = []
    patch.setattr(dist, "say", hear(said))
    Checkpoints(CheckpointFolder(folder / "run"), keep=3).newest_whole()
    return scrubbed(". ".join(said), folder)


def all_damaged(folder: Path, patch: pytest.MonkeyPatch) -> str:
    run = copy(folder)
    flip("__0_0.distcp")(checkpoint(run, 6))
    cut(".metadata")(checkpoint(run, 4))
    delete("progress.json")(checkpoint(run, 2))
    outcome = refused(lambda: chosen(folder, patch), folder)
    assert len(list(run.glob("checkpoints/step-*[0-9]"))) == 3
    return scrubbed(outcome, folder)


def flip(name: str) -> Spoil:
    """One bit in the middle of a file."""

    def spoil(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)

    return spoil


def cut(name: str) -> Spoil:
    return lambda folder: os.truncate(folder / name, 1000)


def delete(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


@contextmanager
def full_disk(patch: pytest.MonkeyPatch, saves: int) -> Iterator[None]:
    """Files of the next so many checkpoints cannot be written beyond 10 kB."""
    left = [saves]
    create = filesystem.FileSystem.create_stream

    @contextmanager
    def limited(self: Any, path: Path, mode: str) -> Iterator[Any]:
        with create(self, path, mode) as stream:
            if mode == "wb" and path.suffix == ".distcp" and left[0] > 0:
                left[0] -= 1
                write = stream.write

                class Full:
                    def __getattr__(self, name: str) -> Any:
                        return getattr(stream, name)

                    def write(self, data: Any) -> int:
                        if stream.tell() > 10_000:
                            raise OSError(
                                errno.ENOSPC, os.strerror(errno.ENOSPC)
                            )
                        return write(data)

                yield Full()
            else:
                yield stream

    with patch.context() as inner:
        inner.setattr(filesystem.FileSystem, "create_stream", limited)
        yield


def cannot_save(saves: int) -> Case:
    def case(folder: Path, patch: pytest.MonkeyPatch) -> str:
        run = copy(folder)
        for step in (4, 6):
            shutil.rmtree(checkpoint(run, step))
        with full_disk(patch, saves):
            config = run_config(folder)
            config.checkpoint_every = 1
            said: list[str] = []
            patch.setattr(dist, "say", hear(said))
            (run / "model.safetensors").unlink()
            trainer = config.build(folder=run, resume=True)
            if saves < 3:
                trainer.fit()
                said = [line for line in said if "loss" not in line]
                return scrubbed(". ".join(said), folder)
            outcome = refused(trainer.fit, folder)
        assert checkpoint(run, 2).is_dir()
        assert not list(run.glob("checkpoints/*.unfinished"))
        return f"{scrubbed(outcome, folder)}; then {resumed(folder, patch)}"

    return case


def scrubbed(message: str, folder: Path) -> str:
    message = re.sub(r"[\d,]+ are free", "N are free", plain(message, folder))
    return re.sub(r"bytes, not [\d,]+", "bytes, not N", message)


def weights_too_large(folder: Path, patch: pytest.MonkeyPatch) -> str:
    run = copy(folder)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with patch.context() as inner:
        inner.setattr(SafetensorsWriter, "put", full)
        outcome = refused(lambda: resumed(folder, patch), folder)
    assert not list(run.glob("*.unfinished"))
    return f"{scrubbed(outcome, folder)}; then {resumed(folder, patch)}"


def opened(spoil: Spoil) -> Case:
    """A finished run that is opened to be evaluated, exported or started from."""

    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        run = copy(folder)
        spoil(run)
        outcome = refused(lambda: load_model(run, torch.device("cpu")), folder)
        return scrubbed(outcome, folder)

    return case


def not_a_number(run: Path) -> None:
    """As a run that diverged would write it: the checksum is right."""
    tensors = load_file(run / "model.safetensors")
    tensors["decoder.norm.weight"][3] = torch.nan
    save_file(tensors, run / "model.safetensors")
    (run / "checksums.json").unlink()


def in_shards(spoil: Spoil, *, noted: bool = False) -> Case:
    """A finished run whose weights are in shards, with or without their checksums."""

    def spoiled(run: Path) -> None:
        tensors = load_file(run / "model.safetensors")
        write_weights(run, tensors, max_shard_bytes=30_000)
        assert len(list(run.glob("model-*"))) == 3
        spoil(run)
        if not noted:
            (run / "checksums.json").unlink()

    return opened(spoiled)


SHARD = "model-00002-of-00003.safetensors"
INDEX = "model.safetensors.index.json"


def indexed(**files: str) -> Spoil:
    """The index says that tensors are in these files."""

    def spoil(run: Path) -> None:
        index = json.loads((run / INDEX).read_text())
        index["weight_map"] |= files
        (run / INDEX).write_text(json.dumps(index))

    return spoil


def added(name: str) -> Spoil:
    """A shard has a tensor more."""

    def spoil(run: Path) -> None:
        tensors = load_file(run / SHARD) | {name: torch.ones(2)}
        save_file(tensors, run / SHARD)

    return spoil


def started_from(folder: Path, _: pytest.MonkeyPatch) -> str:
    run = copy(folder)
    not_a_number(run)
    model, renderer, _ = load_model(whole(folder.parent), torch.device("cpu"))
    return refused(
        lambda: load_part(model, "decoder", run, tokenizer=renderer.tokenizer),
        folder,
    )


def edited(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"seed": 7}, indent=1))


CASES: dict[str, Case] = {
    "newest: a bit of a shard is flipped": damaged(flip("__0_0.distcp")),
    "newest: a shard is cut": damaged(cut("__0_0.distcp")),
    "newest: a shard is missing": damaged(delete("__0_0.distcp")),
    "newest: a bit of `.metadata` is flipped": damaged(flip(".metadata")),
    "newest: no `.metadata`": damaged(delete(".metadata")),
    "newest: a bit of `progress.json` is flipped": damaged(
        flip("progress.json")
    ),
    "newest: a bit of `checksums.json` is flipped": damaged(
        flip("checksums.json")
    ),
    "newest: `checksums.json` is empty": damaged(
        lambda folder: os.truncate(folder / "checksums.json", 0)
    ),
    "newest: no `checksums.json`": damaged(delete("checksums.json")),
    "newest: an empty folder": damaged(
        lambda folder: [path.unlink() for path in folder.iterdir()]
    ),
    "the two newest": damaged(
        cut("__0_0.distcp"), flip("progress.json"), to_the_end=True
    ),
    "all": all_damaged,
    "the disk is full for one checkpoint": cannot_save(1),
    "the disk is full for three in a row": cannot_save(3),
    "the disk is full for the weights": weights_too_large,
    "weights: a bit is flipped": opened(flip("model.safetensors")),
    "weights: cut": opened(cut("model.safetensors")),
    "weights: NaN": opened(not_a_number),
    "weights: NaN, in a run that another one starts from": started_from,
    "weights in shards: one is cut": in_shards(cut(SHARD), noted=True),
    "weights in shards: one is cut, no checksums": in_shards(cut(SHARD)),
    "weights in shards: one is missing": in_shards(delete(SHARD), noted=True),
    "weights in shards: no index": in_shards(delete(INDEX), noted=True),
    "weights in shards: the index is cut": in_shards(
        lambda run: os.truncate(run / INDEX, 100), noted=True
    ),
    "weights in shards: the index is edited": in_shards(
        indexed(more=SHARD), noted=True
    ),
    "weights in shards: the index names a file elsewhere": in_shards(
        indexed(more="../whole run/model.safetensors")
    ),
    "weights in shards: the index names no files": in_shards(
        lambda run: (run / INDEX).write_text('{"weight_map": {}}')
    ),
    "weights in shards: the index names numbers": in_shards(
        lambda run: (run / INDEX).write_text('{"weight_map": {"a": 1}}')
    ),
    "weights in shards: a tensor more": in_shards(added("decoder.extra")),
    "weights in shards: two have one tensor": in_shards(
        added("decoder.norm.weight")
    ),
    "config: a bit is flipped": opened(flip("config.json")),
    "config: edited": opened(edited),
    "tokenizer: a bit is flipped": opened(flip("tokenizer.json")),
}
