"""Instructions and conversations, with pictures or without: a JSON list, or JSON lines, in one of two layouts.

    LLaVA       {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                                     {"from": "gpt", "value": "A cat."}, ...]}
    messages    {"images": ["a.jpg"], "messages": [{"role": "user", "content": "<image>What is it?"},
                                                   {"role": "assistant", "content": "A cat."}, ...]}

The content of a message may also be a list of parts, `{"type": "image"}` and `{"type": "text", "text": ...}`. Pictures
stand where their marks are; without any mark they stand first. A question ends with a line break and is not learnt
from; an answer is learnt from and has its own end.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mm1.data import verify
from mm1.data.document import Document, Image, Text
from mm1.data.sources import DOT, Record, Source, Unusable, found
from mm1.data.sources.text import json_lines

MARK = "<image>"
QUESTIONS = ("human", "user", "system")
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
    PATTERNS = ("*.json", "*.jsonl")

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        images: str = ""
        """The folder that image paths are relative to; empty: the one that the file lies in."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            is_list = _first(file) == "["
        folder = Path(self.config.images) if self.config.images else path.parent
        for record in json_list(path) if is_list else json_lines(path):
            yield Record(record.key, _with_pictures(record.data, folder))

    def document(self, data: Any) -> Document:
        pictures = [found(picture) for picture in data["pictures"]]
        turns = list(_turns(data["record"]))
        num_marks = sum(content.count(MARK) for asks, content in turns if asks)
        if num_marks not in (0, len(pictures)):
            raise Unusable("marks and images differ", f"{num_marks} of {MARK}, {len(pictures)} images")
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


def _turns(record: Any) -> Iterator[tuple[bool, str]]:
    """(is it a question?, content) of each turn."""
    turns, role, content = next((layout for layout in LAYOUTS if isinstance(record.get(layout[0]), list)), (None,) * 3)
    if turns is None:
        raise Unusable("no conversation", f"the record has {', '.join(record) or 'nothing'}")
    for turn in record[turns]:
        if not isinstance(turn, dict) or turn.get(role) not in QUESTIONS + ANSWERS:
            known = ", ".join(QUESTIONS + ANSWERS)
            raise Unusable("unknown speaker", f"{role!r} is none of {known}")
        yield turn[role] in QUESTIONS, _content(turn.get(content))


def _content(value: Any) -> str:
    if not isinstance(value, list):
        return value if isinstance(value, str) else ""
    texts = (MARK if part.get("type") == "image" else part.get("text", "") for part in value if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _with_pictures(record: Any, folder: Path) -> Any:
    """The record and the bytes of its picture files (a URL stays one), or why they cannot be had."""
    if isinstance(record, Unusable):
        return record
    if not isinstance(record, dict):
        return Unusable("no JSON object", f"the record is a {type(record).__name__}")
    names = record.get("image") or record.get("images") or []
    pictures: list[bytes | str] = []
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str):
            return Unusable("no image path", f"it is a {type(name).__name__}")
        if name.lower().startswith(("http://", "https://")):
            pictures.append(name)
            continue
        file = folder / name
        try:
            if file.stat().st_size > verify.MAX_BYTES:
                return Unusable("file too large", f"{file}; the limit is {verify.MAX_BYTES:,} bytes")
            pictures.append(file.read_bytes())
        except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
            missing = isinstance(error, FileNotFoundError)
            return Unusable("missing image file" if missing else "unreadable image file", f"{name}: {error}")
    return {"record": record, "pictures": pictures}


def json_list(path: Path) -> Iterator[Record]:
    """The items of a JSON list, keyed by their place from 0, read piece by piece.

    Nothing can be read behind a place that is no JSON: it gives one `Unusable` and ends the file.
    """
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:  # bad bytes spoil their record alone
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
            more = file.read(max(CHUNK, size)) if size < verify.MAX_BYTES and _cut_short(error, buffer) else ""
            if not more:
                detail = f"nothing is read from here on: {getattr(error, 'msg', error)}"
                yield Record(str(number), Unusable("broken JSON", detail))
                return
            buffer, at = buffer[at:] + more, 0
            continue
        yield Record(str(number), item)
        number += 1


def _cut_short(error: Exception, buffer: str) -> bool:
    """Does the text end inside this item, so that more of the file may make it whole?"""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated string") or error.pos >= len(buffer) - len(r"\ud83d\ude00")
