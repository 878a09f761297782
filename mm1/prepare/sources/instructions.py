"""Instructions and conversations, with or without images: a JSON list, JSON lines
(compressed too) or parquet, in the layouts of public data (`mm1.prepare.turns`).

    LLaVA       {"image": "a.jpg",
                 "conversations": [{"from": "human", "value": "<image>\\nWhat is it?"},
                                   {"from": "gpt", "value": "A cat."}, ...]}
    messages    {"images": ["a.jpg"],
                 "messages": [{"role": "user", "content": "<image>What is it?"},
                              {"role": "assistant", "content": "A cat."}, ...]}
    Cauldron    {"images": [...], "texts": [{"user": ..., "assistant": ...}, ...]}
    exchange    {"image": ..., "question": "What is it?", "answer": "A cat."}

`image` and `images` are one image or a list: paths in a folder, data URIs, base64, or,
in parquet, bytes or {"bytes": ..., "path": ...}. Images may also come in the turns
(`mm1.prepare.conversation`) or with their placeholders (`mm1.prepare.placeholders`).
They go where their placeholders are, or first if there are none. A record is dropped
that names media which are not read. A question ends with a line break and has no loss;
an answer has loss and ends with an end token of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document
from mm1.prepare import tables
from mm1.prepare.compression import CODECS, COMPRESSED_JSON
from mm1.prepare.conversation import parse_conversation
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.json_list import is_json_list, read_json_list
from mm1.prepare.media_fields import image_values, may_name_media
from mm1.prepare.sources import DOT, Record, Unusable
from mm1.prepare.turns import (
    EXCHANGES,
    FLAT_COLUMNS,
    TURN_COLUMNS,
    ConversationSource,
    exchange_fields,
    turn_column,
)
from mm1.storage.remote_path import as_path

COLUMNS = {
    *TURN_COLUMNS,
    *FLAT_COLUMNS,
    *(name for pair in EXCHANGES for name in pair),
}
"""What is read of a table besides what may name images."""


class Instructions(ConversationSource):
    """Questions and answers, with or without images."""

    EXAMPLE = {
        "record": {
            "image": DOT,
            "conversations": [
                {"from": "human", "value": "<image>\nWhat colour is it?"},
                {"from": "gpt", "value": "Grey."},
                {"from": "human", "value": "And how large?"},
                {"from": "gpt", "value": "A single dot."},
            ],
        },
        "folder": ImageFolder(Path()),
    }
    PATTERNS = ("*.json", "*.jsonl", *COMPRESSED_JSON, "*.parquet")
    NAMES_IMAGES = True

    @dataclass(kw_only=True, slots=True)
    class Config(ConversationSource.Config):
        folder: str = ""
        """Where images lie that are given by path; empty: the folder of the file."""
        image: str = ""
        """The column with an image or a list of them; empty: image, images, or one
        column for each, image_1, image_2 ..."""
        messages: str = ""
        """The column with the turns; empty: the known ones (`mm1.prepare.turns`)."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        folder = ImageFolder(as_path(self.config.folder or path.parent))
        known = COLUMNS | self._named_columns()
        for record in self.read_records(path):
            if isinstance(record.data, dict):
                # A field counts once for a file, as a column does.
                for name in sorted(record.data.keys() - known):
                    if len(known) < tables.MAX_FIELDS and not may_name_media(
                        name
                    ):
                        self.skipped.add("column", name)
                        known.add(name)
                data = {"record": record.data, "folder": folder}
                yield Record(record.key, data)
            elif isinstance(record.data, Unusable):
                yield record
            else:
                yield Record(record.key, tables.not_an_object(record.data))

    def document(self, data: Any) -> Document:
        record = data["record"]
        values = image_values(record, self.config.image)
        read = data["folder"].read
        return parse_conversation(
            record,
            [read(value) for value in values],
            self.config,
            column=self.config.messages,
            names=values,
            read=read,
        )

    def read_records(self, path: Path) -> Iterator[Record]:
        """The records as they stand in the file."""
        if tables.table_suffix(path) == ".parquet":
            return tables.read_parquet(path, self._columns(path), self.skipped)
        if path.suffix not in CODECS and is_json_list(path):
            return read_json_list(path)
        return tables.read_json_lines(path)

    def _named_columns(self) -> set[str]:
        config = self.config
        named = (config.messages, config.question, config.answer, config.image)
        return {name for name in named if name}

    def _columns(self, path: Path) -> list[str]:
        """The columns of a parquet file to read: the conversation, and whatever may
        hold images or other media."""
        config = self.config
        known = tables.parquet_columns(path)
        wanted = self._named_columns()
        if not turn_column(known, config.messages):
            wanted |= set(exchange_fields(known, config) or [])
            if not wanted - {config.image}:
                return [TURN_COLUMNS[1]]  # refused, with the nearest column
        return [
            *dict.fromkeys(
                name
                for name in [*known, *sorted(wanted)]
                if name in wanted | COLUMNS or may_name_media(name)
            )
        ]
