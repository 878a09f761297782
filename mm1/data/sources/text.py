"""Plain text in JSON lines: `{"text": "..."}`, one document a line."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data import verify
from mm1.data.document import Document, Text
from mm1.data.sources import Record, Source, Unusable


class Texts(Source):
    """Text without pictures."""

    EXAMPLE = {"text": "It is a truth universally acknowledged."}
    PATTERNS = ("*.jsonl",)

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        field: str = "text"

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        return json_lines(path)

    def document(self, data: Any) -> Document:
        if not isinstance(data, dict):
            raise Unusable("no JSON object", f"the line is a {type(data).__name__}")
        return Document((Text(verify.text(data.get(self.config.field), self.config.field)),))


def json_lines(path: Path) -> Iterator[Record]:
    """One record a line, keyed by line number from 1; blank lines are no records."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(verify.MAX_BYTES):
            number += 1
            if len(line) == verify.MAX_BYTES:
                while (rest := file.readline(verify.MAX_BYTES)) and not rest.endswith(b"\n"):
                    pass
                yield Record(str(number), Unusable("line too long", f"more than {verify.MAX_BYTES:,} bytes"))
            elif line.strip():
                yield Record(str(number), _parsed(line))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(verify.utf8(line))
    except Unusable as error:
        return error
    except (ValueError, RecursionError) as error:
        return Unusable("broken JSON line", str(error).replace("line 1 ", ""))


def read_texts(paths: Sequence[Path]) -> Iterator[str]:
    """What a vocabulary is learnt from: field `text` of JSON lines, lines of other files, folders of either.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    source = Texts.Config().build()
    for path in paths:
        if path.is_dir():
            yield from read_texts(sorted(p for p in path.iterdir() if p.suffix in (".jsonl", ".txt", ".md")))
        elif path.suffix == ".jsonl":
            for record in source.read(path):
                with contextlib.suppress(Unusable):  # prepare counts what is wrong; a vocabulary does without it
                    if not isinstance(record.data, Unusable):
                        yield source.document(record.data).text
        else:
            with path.open(encoding="utf-8", errors="ignore") as file:
                yield from file
