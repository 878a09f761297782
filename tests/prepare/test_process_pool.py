"""Preparing in several processes: the same bytes as in one; a process that dies, hangs
or fails is an error that names its file."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from raw_files import pairs, write_lines, write_tar

from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare import process_pool
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_pool import WorkerDied, WorkerFailed
from mm1.prepare.sources import Record
from mm1.prepare.sources.captions import Captions
from mm1.prepare.sources.text import Texts


class Deadly(Texts):
    """Kills its process, hangs or fails when a text says so."""

    @dataclass(kw_only=True, slots=True)
    class Config(Texts.Config):
        pass

    def read(self, path: Path) -> Iterator[Record]:
        for record in Texts.read(self, path):
            text = record.data["text"]
            if text == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if text == "hang":
                time.sleep(3600)
            yield record

    def document(self, data: Any) -> Document:
        if data["text"] == "fail":
            raise KeyError("mistake in a source")
        if data["text"] == "refuse":
            raise ConfigError("wrong option")
        return Texts.document(self, data)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.slow
def test_two_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal bytes, then every way to fail; one test, since the first process takes
    seconds to start."""
    (raw := tmp_path / "raw").mkdir()
    train_tokenizer(
        ["picture number one two three"],
        tokenizer := tmp_path / "tokenizer.json",
        vocab_size=300,
    )
    for number in range(5):
        write_tar(raw / f"{number}.tar", pairs(3, start=2 * number))
    filters = Filters.Config(duplicates=Duplicates.Config(exact=True))
    for workers in (1, 2):
        out = tmp_path / f"by {workers}"
        prepare(
            Preparation.Config(
                source=Captions.Config(), validation=0.3, filters=filters
            ),
            [raw],
            out,
            tokenizer,
            workers=workers,
        )
    assert contents(tmp_path / "by 1") == contents(tmp_path / "by 2")

    ends = {
        "die": (
            WorkerDied,
            r"die\.jsonl was killed by signal 9.*fewer --workers",
        ),
        "fail": (
            WorkerFailed,
            (
                r"(?s)fail\.jsonl:.*KeyError.*mistake in a source.*while reading"
                r" .*fail\.jsonl#2"
            ),
        ),
        "refuse": (ConfigError, "wrong option"),
        "hang": (WorkerDied, r"hang\.jsonl reported nothing for 2 seconds"),
    }
    for word, (error, message) in ends.items():
        file = write_lines(
            tmp_path / f"{word}.jsonl", [{"text": "one"}, {"text": word}]
        )
        monkeypatch.setattr(
            process_pool, "TIMEOUT_SECONDS", 2.0 if word == "hang" else 60.0
        )
        with pytest.raises(error, match=message):
            prepare(
                Preparation.Config(source=Deadly.Config()),
                [file],
                tmp_path / word,
                tokenizer,
                workers=2,
            )
        assert not (tmp_path / word).exists()
