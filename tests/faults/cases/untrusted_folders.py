"""Run folders, checkpoints, exports, prepared data and tokenizers made by somebody who
means ill. Each case checks that nothing ran, and nothing outside was written."""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import make_world

from cases import Case, refused, tokenizer
from mm1 import config as configs
from mm1.catalog import run_config
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import Tokenizer
from mm1.export.import_model import import_model
from mm1.runs.layout import predictions_path
from mm1.train.checkpoint_reader import read_metadata

PLANTED = """
from dataclasses import dataclass
from pathlib import Path

from mm1.config import Configurable

Path(__file__).with_name("ran").touch()


class Planted(Configurable):
    pass
"""
NAMED = {"class": "downloaded.planted:Planted"}


class Ran:
    """Unpickled plainly, it makes the file `ran`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ran"

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def safely(
    spoil: Callable[[Path], Callable[[], Any]],
) -> Case:
    """`spoil` prepares a folder of a stranger's and returns what a user does with it;
    the outcome is an error, nothing ran, and nothing new is outside the folder."""

    def case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        theirs = folder / "downloaded"
        theirs.mkdir()
        (theirs / "__init__.py").touch()
        (theirs / "planted.py").write_text(PLANTED)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(configs, "TRUSTED", ["mm1"])
        use = spoil(theirs)
        before = sorted(folder.rglob("*"))
        outcome = refused(use, folder)
        assert "\n" not in outcome
        assert sorted(folder.rglob("*")) == before
        assert not list(folder.rglob("ran"))
        assert "downloaded.planted" not in sys.modules
        return outcome

    return case


def write(path: Path, value: Any) -> None:
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def config(**values: Any) -> Callable[[Path], Callable[[], Any]]:
    """`mm1 show` of a run folder."""

    def spoil(folder: Path) -> Callable[[], Any]:
        write(folder / "config.json", values)
        return lambda: run_config(str(folder))

    return spoil


def deep(folder: Path) -> Callable[[], Any]:
    write(folder / "config.json", '{"class":' * 100_000)
    return lambda: run_config(str(folder))


def metadata(folder: Path) -> Callable[[], Any]:
    (folder / ".metadata").write_bytes(pickle.dumps(Ran(folder)))
    return lambda: read_metadata(folder)


def outside(folder: Path) -> Callable[[], Any]:
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

    files = {MetadataIndex("w"): _StorageInfo("../../secret", 0, 1)}
    (folder / ".metadata").write_bytes(
        pickle.dumps(Metadata({}, storage_data=files))
    )
    return lambda: read_metadata(folder)


def benchmark(folder: Path) -> Callable[[], Any]:
    return lambda: predictions_path(folder, "../../../escaped", 0)


def exported(
    change: Callable[[Path], object], **options: Any
) -> Callable[[Path], Callable[[], Any]]:
    """`mm1 import` of a small published model."""

    def spoil(folder: Path) -> Callable[[], Any]:
        from published import write_model

        made = folder.parent.parent / "published"
        if not made.is_dir():
            write_model(made, "llama")
        shutil.copytree(made, folder, dirs_exist_ok=True)
        change(folder)
        out = folder.parent / "run"
        return lambda: import_model(str(folder), out, **options)

    return spoil


def index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    names = {"weight_map": {"a": "../../secret.safetensors"}}
    write(folder / "model.safetensors.index.json", names)


def header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((1 << 40).to_bytes(8, "little"))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"a": Ran(folder)}, folder / "pytorch_model.bin")


def edit(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    stored = json.loads(path.read_text()) if path.is_file() else {}
    write(path, stored | values)


def expression(folder: Path, pattern: str) -> None:
    replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": ""}
    edit(folder, "tokenizer.json", normalizer=replace)


def manifest(folder: Path) -> Callable[[], Any]:
    made = folder.parent.parent / "world"
    if not made.is_dir():
        make_world(made)
    shutil.copytree(made / "text", folder, dirs_exist_ok=True)
    stored = json.loads((folder / "manifest.json").read_text())
    stored["splits"]["train"]["shards"][0]["file"] = "../../secret.arrow"
    write(folder / "manifest.json", stored)
    return lambda: Shards(folder)


def vocabulary(**values: Any) -> Callable[[Path], Callable[[], Any]]:
    """`--tokenizer` of a folder."""

    def spoil(folder: Path) -> Callable[[], Any]:
        shutil.copy(tokenizer(folder.parent), folder / "tokenizer.json")
        edit(folder, "tokenizer.json", **values)
        return lambda: Tokenizer.Config(path=str(folder)).build()

    return spoil


CASES: dict[str, Case] = {
    "a config that names a class of its folder": safely(config(**NAMED)),
    "a config with such a class inside": safely(
        config(
            **{"class": "mm1.train.trainer:Trainer", "benchmarks": {"a": NAMED}}
        )
    ),
    "a config that names no module": safely(
        config(**{"class": "mm1/../downloaded/planted:Planted"})
    ),
    "a config nested 100,000 deep": safely(deep),
    "a checkpoint whose metadata call a function": safely(metadata),
    "a checkpoint that names files elsewhere": safely(outside),
    "a benchmark named ../../../escaped": safely(benchmark),
    "an export whose mm1.json names a class of its folder": safely(
        exported(lambda f: write(f / "mm1.json", {"model": NAMED}))
    ),
    "an export with code of its own": safely(
        exported(
            lambda f: edit(
                f, "config.json", auto_map={"AutoModel": "planted.Planted"}
            )
        )
    ),
    "an index of shards elsewhere": safely(exported(index)),
    "safetensors with a header of a terabyte": safely(exported(header)),
    "pickled weights": safely(exported(pickled)),
    "pickled weights that call a function, with --pickle": safely(
        exported(pickled, pickle=True)
    ),
    "ends of texts that are no ids": safely(
        exported(
            lambda f: edit(f, "generation_config.json", eos_token_id="</s>")
        )
    ),
    "a tokenizer whose expression takes exponential time": safely(
        exported(lambda f: expression(f, "(a+)+$"))
    ),
    "a tokenizer with four billion ids": safely(
        vocabulary(
            model={
                "type": "WordLevel",
                "vocab": {
                    "<pad>": 0,
                    "<end>": 1,
                    "<image>": 2,
                    "a": 4294967295,
                },
                "unk_token": "a",
            }
        )
    ),
    "prepared data whose manifest names files elsewhere": safely(manifest),
}
