"""Faults by area: each file has a docstring, which heads its table in docs/faults.md,
and `CASES`.

A case makes something bad in an empty folder, meets it as a user would, and returns
what came of it as one line. What is no error for a person, a hang or a loss that nobody
counts fails the case (`prepared`, `refused`).
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mm1.config import UserError
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare.pipeline import prepare

Case = Callable[[Path, pytest.MonkeyPatch], str]
"""(an empty folder, for setting limits) -> what came of it."""


@cache
def tokenizer(folder: Path) -> Path:
    """A small one, made once for all cases, in the folder that holds theirs."""
    path = folder.parent / "tokenizer.json"
    if not path.is_file():
        train_tokenizer(["a text"], path, vocab_size=300)
    return path


def prepared(kind: str, path: Path) -> str:
    """What came of preparing a raw file: what was kept, and each loss with its key and
    reason; the books balance."""
    out = path.parent / "out"
    manifest = prepare(kind, [path], out, tokenizer(path.parent))
    lines = [
        json.loads(line) for line in (out / "drops.jsonl").read_text().splitlines()
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
    return f"{manifest['documents']} of {manifest['records_in']} kept{''.join(losses)}"


def refused(meet: Callable[[], Any], folder: Path) -> str:
    """The message for a person that something bad is met with."""
    with pytest.raises((UserError, OSError)) as error:
        meet()
    return f"error: {plain(str(error.value), folder)}"


def plain(message: str, folder: Path) -> str:
    """Without what differs from run to run: folders, numbers of processes, sizes of
    files that hold paths."""
    for place in (folder, folder.parent):
        message = message.replace(f"{place}/", "").replace(str(place), ".")
    return re.sub(
        r"pid(\(s\))? \d+", "pid N", re.sub(r"[\d,]+ bytes", "N bytes", message)
    )
