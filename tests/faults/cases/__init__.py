"""Faults by area: each file has a docstring, which heads its table in docs/faults.md,
and `CASES`.

A case creates a fault in an empty folder, meets it the way a user would, and returns
the outcome as one line. A traceback, a hang or a loss that is not counted fails the
case (`prepared`, `refused`).
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mm1.cli import remedy
from mm1.config import UserError
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare.pipeline import prepare
from mm1.prepare.skipped import describe_skipped

Case = Callable[[Path, pytest.MonkeyPatch], str]
"""(an empty folder, for lowering limits) -> the outcome."""


@cache
def tokenizer(folder: Path) -> Path:
    """A small tokenizer, trained once for all cases, in the parent of their folders."""
    path = folder.parent / "tokenizer.json"
    if not path.is_file():
        train_tokenizer(["a text"], path, vocab_size=300)
    return path


def prepared(kind: str, path: Path) -> str:
    """The outcome of preparing a raw file: what was kept, and each loss with its key
    and reason; checks that the counts add up."""
    out = path.parent / "out"
    manifest = prepare(kind, [path], out, tokenizer(path.parent))
    lines = [
        json.loads(line)
        for line in (out / "drops.jsonl").read_text().splitlines()
    ]
    assert manifest["records_in"] == manifest["documents"] + sum(
        manifest["drops"].values()
    )
    assert len(lines) == sum(manifest["drops"].values()) + sum(
        manifest["images_dropped"].values()
    )
    read = Shards(out)
    assert all(read.document(number).text for number in range(len(read)))
    losses = [
        f"; {line['dropped']} dropped: {line['reason']} ({line['key'] or 'the file'})"
        for line in lines
    ]
    if manifest["skipped"]:
        losses.append(f"; not read: {describe_skipped(manifest['skipped'])}")
    if manifest["noted"]:
        losses.append(f"; noted: {', '.join(manifest['noted'])}")
    return f"{manifest['documents']} of {manifest['records_in']} kept{''.join(losses)}"


def refused(run: Callable[[], Any], folder: Path) -> str:
    """The message of the error that the user gets."""
    with pytest.raises((UserError, OSError)) as error:
        run()
    said = remedy(error.value, resumes=True) or str(error.value)
    return f"error: {plain(said, folder)}"


def plain(message: str, folder: Path) -> str:
    """The message without what differs between runs: folders, process ids, sizes of
    files that contain paths."""
    for place in (folder, folder.parent):
        message = message.replace(f"{place}/", "").replace(str(place), ".")
    return re.sub(
        r"pid(\(s\))? \d+", "pid N", re.sub(r"[\d,]+ bytes", "N bytes", message)
    )
