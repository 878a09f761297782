"""Plain text: one document a line of JSON lines, `{"text": "..."}`, or a row of a
parquet file with such a column.

JSON lines may be compressed, as C4 (`.json.gz`) and SlimPajama (`.jsonl.zst`) are. For
folders of `.txt` files see `text_files`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.prepare import tables, verify
from mm1.prepare.compression import COMPRESSED_JSON
from mm1.prepare.sources import Record, Source


class Texts(Source):
    """Text without images."""

    EXAMPLE = {"text": "It is a truth universally acknowledged."}
    PATTERNS = ("*.jsonl", *COMPRESSED_JSON, "*.parquet")

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        field: str = "text"
        """The field of a line or the column of a parquet file that holds the text."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        if tables.table_suffix(path) == ".parquet":
            return tables.read_parquet(path, [self.config.field], self.skipped)
        return tables.read_json_lines(path)

    def document(self, data: Any) -> Document:
        if not isinstance(data, dict):
            raise tables.not_an_object(data)
        field = self.config.field
        return Document((Text(verify.check_text(data.get(field), field)),))
