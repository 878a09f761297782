"""The texts that a tokenizer learns from: those of whatever `mm1 prepare` reads.

A file's name and its fields say what it is: plain text by the line, a table with a
field of texts, a tar of captions, pages, conversations. Or a source is named, with its
options, as for `mm1 prepare`. Images are not decoded.
"""

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.data.document import Text
from mm1.prepare import tables
from mm1.prepare.compression import open_decompressed
from mm1.prepare.skipped import Skipped, describe_skipped
from mm1.prepare.sources import Record, Source, Unusable
from mm1.prepare.sources.captions import Captions
from mm1.prepare.sources.html_pages import HtmlPages
from mm1.prepare.sources.instructions import Instructions
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.mmc4 import MMC4
from mm1.prepare.turns import (
    ConversationSource,
    exchange_fields,
    turn_column,
)
from mm1.prepare.verify import check_text

PLAIN_SUFFIXES = (".txt", ".md")
PIECE = 1 << 20
"""Bytes of a line that are taken at a time: a file may have no line breaks."""
TEXT_FIELDS = ("text", "caption")
NOT_UTF8 = "not UTF-8"
NOT_UTF8_FILE = "file that is not UTF-8"
EMPTY = "file without records"


class TokenizerTexts:
    """Iterates over the texts of files and folders, and counts what has none."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        field: str = "",
        source: Source | None = None,
    ) -> None:
        """
        Args:
            field: the field with the text, where it is none of those known.
            source: reads the files; None: each is read by its name and fields.
        """
        self.paths = paths
        self.field = field
        self.source = source
        self.num_texts = 0
        self.left_out: Counter[str] = Counter()
        """Records without a text, by reason."""
        self.skipped = Skipped()
        """Files that are not read, and why."""

    def __iter__(self) -> Iterator[str]:
        """
        Raises:
            FileNotFoundError: a path does not exist.
            ConfigError: there is no text at all; says what was seen.
        """
        for path in self.paths:
            if self.source is not None:
                texts = self._texts_by(self.source, self.source.find(path))
            else:
                texts = (
                    text
                    for file in self._files(path)
                    for text in self._texts_of(file)
                )
            for text in texts:
                self.num_texts += 1
                yield text
        if not self.num_texts:
            raise ConfigError(
                f"no text to learn from in {', '.join(map(str, self.paths))}:"
                f" {self.summary() or 'nothing is there'}. {self._remedy()}"
            )

    def _remedy(self) -> str:
        """What to do where there is no text at all."""
        seen = {*self.left_out, *self.skipped.counts}
        if seen and seen <= {NOT_UTF8, NOT_UTF8_FILE}:
            return (
                "Convert the files to UTF-8, as `iconv -f latin1 -t utf-8` does"
            )
        if seen == {EMPTY}:
            return "Name files that have texts"
        return (
            "Name the field of the text (--field content), or how the files are read"
            " (--source text_files)"
        )

    def summary(self) -> str:
        """What was left out; empty if nothing was."""
        reasons = [
            f"{count:,} records dropped ({reason})"
            for reason, count in self.left_out.most_common()
        ]
        files = describe_skipped(self.skipped.to_json())
        return ", ".join([*([files] if files else []), *reasons])

    def _files(self, path: Path) -> Iterator[Path]:
        """The path, or the files directly in it."""
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                yield file
            else:
                self.skipped.add(
                    "folder" if file.is_dir() else "link", file.name
                )

    def _texts_of(self, file: Path) -> Iterator[str]:
        suffix = tables.table_suffix(file)
        if suffix in PLAIN_SUFFIXES:
            return self._lines(file)
        if suffix == ".tar":
            source = Captions.Config(field=self.field).build()
            return self._texts_by(source, [file])
        if suffix in (".html", ".htm"):
            return self._texts_by(HtmlPages.Config().build(), [file])
        if suffix in tables.SUFFIXES:
            return self._texts_of_table(file)
        self.skipped.add(f"{suffix or 'nameless'} file", file.name)
        return iter(())

    def _texts_of_table(self, file: Path) -> Iterator[str]:
        first = _first_row(file)
        names = (self.field,) if self.field else TEXT_FIELDS
        if not first and tables.table_suffix(file) in tables.JSON_LINES:
            return self._texts_of_field(
                file, names[0]
            )  # says why there is none
        if not first:
            self.skipped.add(EMPTY, file.name)
            return iter(())
        for name in names:
            if name in first:
                return self._texts_of_field(file, name)
        if source := None if self.field else _source_of(first):
            return self._texts_by(source, [file])
        fields = ", ".join(map(str, first))
        kind = f"file with the fields {fields}"
        if any("\udc80" <= character <= "\udcff" for character in fields):
            kind = NOT_UTF8_FILE  # how `tables.csv_header` keeps other bytes
        self.skipped.add(kind, file.name)
        return iter(())

    def _texts_of_field(self, file: Path, field: str) -> Iterator[str]:
        record = None
        for record in _rows(file, field):
            try:
                row = _usable(record.data)
                if not isinstance(row, dict):
                    raise tables.not_an_object(row)
                yield check_text(row.get(field), field)
            except Unusable as why:
                self.left_out[why.reason] += 1
        if record is None:
            self.skipped.add(EMPTY, file.name)

    def _texts_by(self, source: Source, files: Iterable[Path]) -> Iterator[str]:
        for file in files:
            record = None
            for record in source.read(file):
                try:
                    document = source.document(_usable(record.data))
                except Unusable as why:
                    self.left_out[why.reason] += 1
                    continue
                for part in document.parts:
                    if isinstance(part, Text) and part.content.strip():
                        yield part.content
            if record is None:
                self.skipped.add(EMPTY, file.name)

    def _lines(self, file: Path) -> Iterator[str]:
        """The lines of a file, without those that are not UTF-8."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        is_empty = True
        with open_decompressed(file) as lines:
            while line := lines.readline(PIECE):
                is_empty = False
                ends = len(line) < PIECE or line.endswith(b"\n")
                try:
                    text = decoder.decode(line, final=ends)
                except UnicodeDecodeError:
                    decoder.reset()
                    self.left_out[NOT_UTF8] += 1
                else:
                    yield text
        if is_empty:
            self.skipped.add(EMPTY, file.name)


def _rows(file: Path, column: str) -> Iterator[Record]:
    """The rows of a table, or of a JSON list."""
    if tables.table_suffix(file) in tables.JSON_LINES:
        return Instructions(Instructions.Config()).read_records(file)
    return tables.read_table(file, [column])


def _first_row(file: Path) -> dict[str, Any]:
    """The first object of a file, or the columns of a table; empty if there is none."""
    suffix = tables.table_suffix(file)
    if suffix == ".parquet":
        columns = tables.parquet_columns(file)
        texts = [name for name in ("texts",) if name in columns]
        rows = tables.read_parquet(file, texts) if texts else iter(())
        first = next((row.data for row in rows), None)
        return dict.fromkeys(columns) | (
            first if isinstance(first, dict) else {}
        )
    if suffix in (".csv", ".tsv"):
        return dict.fromkeys(tables.csv_header(file))
    return next(
        (row.data for row in _rows(file, "") if isinstance(row.data, dict)), {}
    )


def _source_of(first: dict[str, Any]) -> Source | None:
    """The source of a table, by the fields of its first row."""
    texts = first.get("texts")
    are_turns = isinstance(texts, list) and isinstance((*texts, "")[0], dict)
    if {"images", "texts"} <= first.keys() and not are_turns:
        return Interleaved.Config().build()
    if {"text_list", "image_info"} <= first.keys():
        return MMC4.Config().build()
    if "html" in first:
        return HtmlPages.Config().build()
    if turn_column(first, "") or exchange_fields(
        first, ConversationSource.Config()
    ):
        return Instructions.Config().build()
    return None


def _usable(data: Any) -> Any:
    if isinstance(data, Unusable):
        raise data
    return data
