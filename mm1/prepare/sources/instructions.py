"""Instructions and conversations, with pictures or without: a JSON list, JSON lines
(.gz and .zst too) or parquet, in one of two layouts.

    LLaVA       {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                     {"from": "gpt", "value": "A cat."},
                                                     ...]}
    messages    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What is it?"},
                                                   {"role": "assistant", "content": "A
                                                   cat."}, ...]}

`image` and `images` are one picture or a list: paths in a folder, or, in parquet, bytes
or {"bytes": ..., "path": ...}. The content of a message may also be a list of parts,
`{"type": "image"}` and `{"type": "text", "text": ...}`. Pictures stand where their
marks are; without any mark they stand first. A question ends with a line break and is
not learnt from; an answer is learnt from and has its own end.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mm1.data.document import Document, Image, Text
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.sources import DOT, Record, Source, Unusable, found

MARK = "<image>"
SYSTEM = "system"
QUESTIONS = ("human", "user", SYSTEM)
ANSWERS = ("gpt", "assistant")
LAYOUTS = (("conversations", "from", "value"), ("messages", "role", "content"))
"""The list of turns; in a turn, who speaks and what."""
CHUNK = 1 << 20
SEPARATORS = re.compile(r"[\s,]*")


class Instructions(Source):
    """Questions and answers about pictures, and without them."""

    EXAMPLE = {
        "record": {
            "image": "dot.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat colour is it?"},
                {"from": "gpt", "value": "Grey."},
                {"from": "human", "value": "And how large?"},
                {"from": "gpt", "value": "A single dot."},
            ],
        },
        "pictures": [DOT],
    }
    PATTERNS = ("*.json", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.parquet")

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        folder: str = ""
        """Where pictures lie that are given by path; empty: the folder of the file."""
        suffix: str = ""
        """A line behind every question. LLaVA-1.5 (arXiv:2310.03744) asks for the short
        answers of academic sets with "Answer the question using a single word or
        phrase."; many files bring it along."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        pictures = ImageFolder(Path(self.config.folder or path.parent))
        for record in _records(path):
            if isinstance(record.data, (dict, Unusable)):
                yield Record(record.key, _with_pictures(record.data, pictures))
            else:
                yield Record(record.key, tables.no_object(record.data))

    def document(self, data: Any) -> Document:
        return conversation(
            data["record"],
            [found(picture) for picture in data["pictures"]],
            self.config.suffix,
        )


def conversation(record: Any, pictures: list[Image], suffix: str = "") -> Document:
    """The turns of a record, with its pictures in the places of their marks, and a line
    behind every question."""
    turns = list(_turns(record, suffix))
    num_marks = sum(content.count(MARK) for asks, content in turns if asks)
    if num_marks not in (0, len(pictures)):
        raise Unusable(
            "marks and images differ", f"{num_marks} of {MARK}, {len(pictures)} images"
        )
    waiting = iter(pictures)
    parts: list[Text | Image] = [] if num_marks else list(waiting)
    for asks, content in turns:
        if asks:
            parts += _question(content, waiting)
        else:
            parts.append(Text(verify.text(content, "answer").strip(), end=True))
    if all(asks for asks, _ in turns):
        raise Unusable("no answer")
    return Document(tuple(parts))


def _question(content: str, pictures: Iterator[Image]) -> Iterator[Text | Image]:
    """The text between marks, and the pictures in their places."""
    pieces = [piece.strip("\r\n") for piece in content.strip().split(MARK)]
    for number, piece in enumerate(pieces):
        if number:
            yield next(pictures)
        if piece.strip():
            yield Text(piece + "\n" if number == len(pieces) - 1 else piece, loss=False)


def _turns(record: Any, suffix: str) -> Iterator[tuple[bool, str]]:
    """(is it a question?, content) of each turn."""
    turns, role, content = next(
        (layout for layout in LAYOUTS if isinstance(record.get(layout[0]), list)),
        (None,) * 3,
    )
    if turns is None:
        raise Unusable(
            "no conversation", f"the record has {', '.join(record) or 'nothing'}"
        )
    for turn in record[turns]:
        if not isinstance(turn, dict) or turn.get(role) not in QUESTIONS + ANSWERS:
            known = ", ".join(QUESTIONS + ANSWERS)
            raise Unusable("unknown speaker", f"{role!r} is none of {known}")
        words = _content(turn.get(content))
        asks = turn[role] in QUESTIONS
        yield (
            asks,
            (
                f"{words.rstrip()}\n{suffix}"
                if suffix and asks and turn[role] != SYSTEM
                else words
            ),
        )


def _content(value: Any) -> str:
    if not isinstance(value, list):
        return value if isinstance(value, str) else ""
    texts = (
        MARK if part.get("type") == "image" else part.get("text", "")
        for part in value
        if isinstance(part, dict)
    )
    return "".join(text for text in texts if isinstance(text, str))


def _with_pictures(record: dict[str, Any] | Unusable, pictures: ImageFolder) -> Any:
    if isinstance(record, Unusable):
        return record
    values = record.get("image") or record.get("images") or []
    values = values if isinstance(values, list) else [values]
    return {"record": record, "pictures": [pictures.read(value) for value in values]}


def _records(path: Path) -> Iterator[Record]:
    if tables.kind(path) == ".parquet":
        known = tables.columns_of(path)
        turns = next(
            (layout[0] for layout in LAYOUTS if layout[0] in known), LAYOUTS[-1][0]
        )
        return tables.parquet_rows(
            path,
            [turns, *(column for column in ("image", "images") if column in known)],
        )
    if path.suffix not in tables.CODECS:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            if _first(file) == "[":
                return json_list(path)
    return tables.json_lines(path)


def json_list(path: Path) -> Iterator[Record]:
    """The items of a JSON list, keyed by their place from 0, read piece by piece.

    Nothing can be read behind a place that is no JSON: it gives one `Unusable` and ends
    the file.
    """
    with path.open(
        encoding="utf-8-sig", errors="surrogateescape"
    ) as file:  # bad bytes spoil their record alone
        yield from _items(file)


def _first(file: TextIO) -> str:
    """The first character that is no white space."""
    while (character := file.read(1)).isspace():
        pass
    return character


def _items(file: TextIO) -> Iterator[Record]:
    decoder = json.JSONDecoder()
    _first(file)  # the bracket
    buffer = file.read(CHUNK)
    at = number = 0
    while True:
        separators = SEPARATORS.match(buffer, at)
        at = separators.end() if separators else at
        if buffer.startswith("]", at):
            return
        try:
            item, at = decoder.raw_decode(buffer, at)
        except (json.JSONDecodeError, RecursionError) as error:
            size = len(buffer) - at
            more = (
                file.read(max(CHUNK, size))
                if size < verify.MAX_BYTES and _cut_short(error, buffer)
                else ""
            )
            if not more:
                detail = f"nothing is read from here on: {getattr(error, 'msg', error)}"
                yield Record(str(number), Unusable("broken JSON", detail))
                return
            buffer = buffer[at:] + more
            at = 0
            continue
        yield Record(str(number), item)
        number += 1


def _cut_short(error: Exception, buffer: str) -> bool:
    """Does the text end inside this item, so that more of the file may make it
    whole?"""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(
        buffer
    ) - len(r"\ud83d\ude00")
