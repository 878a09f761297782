"""Instructions and conversations, with or without images: a JSON list, JSON lines (.gz
and .zst too) or parquet, in one of two layouts.

    LLaVA       {"image": "a.jpg",
                 "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                   {"from": "gpt", "value": "A cat."}, ...]}
    messages    {"images": ["a.jpg"],
                 "messages": [{"role": "user", "content": "<image>What is it?"},
                              {"role": "assistant", "content": "A cat."}, ...]}

`image` and `images` are one image or a list: paths in a folder, or, in parquet, bytes
or {"bytes": ..., "path": ...}. The content of a message may also be a list of parts,
`{"type": "image"}` and `{"type": "text", "text": ...}`. Images go where their
placeholders are, or first if there are none. A question ends with a line break and has
no loss; an answer has loss and ends with an end token of its own.
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
from mm1.prepare.sources import DOT, Record, Source, Unusable, raw_image

IMAGE_PLACEHOLDER = "<image>"
SYSTEM = "system"
QUESTION_ROLES = ("human", "user", SYSTEM)
ANSWER_ROLES = ("gpt", "assistant")
LAYOUTS = (("conversations", "from", "value"), ("messages", "role", "content"))
"""The field of the list of turns; in a turn, the fields of the role and the content."""
CHUNK = 1 << 20
SEPARATORS = re.compile(r"[\s,]*")


class Instructions(Source):
    """Questions and answers, with or without images."""

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
        "images": [DOT],
    }
    PATTERNS = ("*.json", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst", "*.parquet")
    NAMES_IMAGES = True

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        folder: str = ""
        """Where images lie that are given by path; empty: the folder of the file."""
        suffix: str = ""
        """A line after every question. LLaVA-1.5 (arXiv:2310.03744) asks for the short
        answers of academic sets with "Answer the question using a single word or
        phrase."; many files include it already."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        folder = ImageFolder(Path(self.config.folder or path.parent))
        for record in _read_records(path):
            data = record.data
            if isinstance(data, dict):
                values = data.get("image") or data.get("images") or []
                values = values if isinstance(values, list) else [values]
                images = [folder.read(value) for value in values]
                yield Record(record.key, {"record": data, "images": images})
            elif isinstance(data, Unusable):
                yield record
            else:
                yield Record(record.key, tables.not_an_object(data))

    def document(self, data: Any) -> Document:
        images = [raw_image(image) for image in data["images"]]
        return parse_conversation(data["record"], images, self.config.suffix)


def parse_conversation(
    record: Any, images: list[Image], suffix: str = ""
) -> Document:
    """The turns of a record, with its images in place of their placeholders.

    `suffix` is a line after every question.

    Raises:
        Unusable: not a conversation with answers, or not an image for each placeholder.
    """
    turns = list(_turns(record, suffix))
    num_marks = sum(
        content.count(IMAGE_PLACEHOLDER) for asks, content in turns if asks
    )
    if num_marks not in (0, len(images)):
        raise Unusable(
            "marks and images differ",
            f"{num_marks} of {IMAGE_PLACEHOLDER}, {len(images)} images",
        )
    waiting = iter(images)
    parts: list[Text | Image] = [] if num_marks else list(waiting)
    for asks, content in turns:
        if asks:
            parts += _question(content, waiting)
        else:
            answer = verify.check_text(content, "answer").strip()
            parts.append(Text(answer, end=True))
    if all(asks for asks, _ in turns):
        raise Unusable("no answer")
    return Document(tuple(parts))


def _question(content: str, images: Iterator[Image]) -> Iterator[Text | Image]:
    """The text between placeholders, and the images in their places."""
    pieces = content.strip().split(IMAGE_PLACEHOLDER)
    for number, piece in enumerate(piece.strip("\r\n") for piece in pieces):
        if number:
            yield next(images)
        if piece.strip():
            is_last = number == len(pieces) - 1
            yield Text(piece + "\n" if is_last else piece, loss=False)


def _turns(record: Any, suffix: str) -> Iterator[tuple[bool, str]]:
    """(whether it is a question, content) of each turn."""
    turns, role, content = next(
        (
            layout
            for layout in LAYOUTS
            if isinstance(record.get(layout[0]), list)
        ),
        (None,) * 3,
    )
    if turns is None:
        raise Unusable(
            "no conversation",
            f"the record has {', '.join(record) or 'nothing'}",
        )
    roles = QUESTION_ROLES + ANSWER_ROLES
    for turn in record[turns]:
        if not isinstance(turn, dict) or turn.get(role) not in roles:
            raise Unusable(
                "unknown speaker", f"{role!r} is none of {', '.join(roles)}"
            )
        text = _text_of(turn.get(content))
        asks = turn[role] in QUESTION_ROLES
        if suffix and asks and turn[role] != SYSTEM:
            text = f"{text.rstrip()}\n{suffix}"
        yield asks, text


def _text_of(content: Any) -> str:
    """The content of a message as a string with placeholders."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else ""
    texts = (
        IMAGE_PLACEHOLDER
        if part.get("type") == "image"
        else part.get("text", "")
        for part in content
        if isinstance(part, dict)
    )
    return "".join(text for text in texts if isinstance(text, str))


def _read_records(path: Path) -> Iterator[Record]:
    if tables.table_suffix(path) == ".parquet":
        known = tables.parquet_columns(path)
        turns = next(
            (layout[0] for layout in LAYOUTS if layout[0] in known),
            LAYOUTS[-1][0],
        )
        images = [column for column in ("image", "images") if column in known]
        return tables.read_parquet(path, [turns, *images])
    if path.suffix not in tables.CODECS:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            if _first_character(file) == "[":
                return read_json_list(path)
    return tables.read_json_lines(path)


def read_json_list(path: Path) -> Iterator[Record]:
    """The items of a JSON list, keyed by their index from 0, read piece by piece.

    Nothing can be read after a place that is not JSON: it gives one `Unusable`.
    """
    decoder = json.JSONDecoder()
    # With surrogates for bad bytes, these spoil only their own record.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        _first_character(file)  # the bracket
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
                more = ""
                if size < verify.MAX_BYTES and _is_truncated(error, buffer):
                    more = file.read(max(CHUNK, size))
                if not more:
                    reason = getattr(error, "msg", error)
                    detail = f"nothing is read from here on: {reason}"
                    yield Record(str(number), Unusable("broken JSON", detail))
                    return
                buffer = buffer[at:] + more
                at = 0
                continue
            yield Record(str(number), item)
            number += 1


def _first_character(file: TextIO) -> str:
    """The first character that is not white space."""
    while (character := file.read(1)).isspace():
        pass
    return character


def _is_truncated(error: Exception, buffer: str) -> bool:
    """Whether the buffer ends inside this item, so that more of the file may complete
    it."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    margin = len(r"\ud83d\ude00")
    return (
        error.msg.startswith("Unterminated string")
        or error.pos >= len(buffer) - margin
    )
