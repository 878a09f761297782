"""Tables of records, read one record at a time: parquet, CSV, TSV and JSON lines; all
but parquet also as .gz or .zst.

A file that breaks off gives the records before the break, and one `Unusable` for what
is lost. In a compressed file up to `BUFFER` bytes before the break are lost too, or the
compressor's block (128 KiB of zstd).
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from mm1.config import ConfigError, nearest
from mm1.dist import say
from mm1.prepare import verify
from mm1.prepare.sources import Record, Unusable

BUFFER = 1 << 13
ROWS = 4
"""Rows of a parquet file that are read at a time: a page may hold dozens of
pictures."""

CODECS = {".gz": "gzip", ".zst": "zstd"}
LINES = (".jsonl", ".ndjson", ".json")
ENDINGS = (".parquet", ".csv", ".tsv", *LINES)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed on the way where its name ends in .gz or .zst.

    Raises:
        OSError: it cannot be opened; from reading: the compressed data is damaged or
            breaks off.
    """
    with path.open("rb") as file:
        if codec := CODECS.get(path.suffix):
            import pyarrow as pa

            yield io.BufferedReader(pa.CompressedInputStream(file, codec), BUFFER)  # type: ignore[type-var]
        else:
            yield file


def rows(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """The rows of a table as dicts; its kind goes by its name. Of JSON lines, all
    fields; else `columns` alone.

    Raises:
        OSError: the file cannot be opened.
        ConfigError: it has a header without one of `columns`; the nearest one is named.
    """
    ending = kind(path)
    path.stat()
    if ending == ".parquet":
        yield from parquet_rows(path, columns)
    elif ending in (".csv", ".tsv"):
        yield from csv_rows(path, columns)
    elif ending in LINES:
        for record in json_lines(path):
            yield (
                record
                if isinstance(record.data, (dict, Unusable))
                else Record(record.key, no_object(record.data))
            )
    else:
        yield Record(
            "",
            Unusable(
                "unknown kind of table",
                f"the name ends in none of {', '.join(ENDINGS)}",
            ),
        )


def kind(path: Path) -> str:
    """The ending that says what a file is: `.jsonl` for `a.jsonl.zst`."""
    return Path(path.stem if path.suffix in CODECS else path.name).suffix.lower()


def no_object(value: Any) -> Unusable:
    return Unusable("no JSON object", f"the record is a {type(value).__name__}")


def json_lines(path: Path) -> Iterator[Record]:
    """One record a line, keyed by line number from 1; blank lines are no records."""
    with opened(path) as file:
        number = 0
        try:
            while line := file.readline(verify.MAX_BYTES):
                number += 1
                if len(line) == verify.MAX_BYTES:
                    while (
                        rest := file.readline(verify.MAX_BYTES)
                    ) and not rest.endswith(b"\n"):
                        pass
                    yield Record(
                        str(number),
                        Unusable(
                            "line too long", f"more than {verify.MAX_BYTES:,} bytes"
                        ),
                    )
                elif line.strip():
                    yield Record(str(number), _parsed(line))
        except OSError as error:
            yield Record(str(number + 1), _damaged(error))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(verify.utf8(line))
    except Unusable as error:
        return error
    except (ValueError, RecursionError) as error:
        return Unusable("broken JSON line", str(error).replace("line 1 ", ""))


def _damaged(error: Exception) -> Unusable:
    return Unusable("damaged file", f"nothing is read from here on: {error}")


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """Rows under a header, keyed by the line that they begin at; what parts the fields
    is a tab if the header has one.

    Quotes are read as pandas and open_clip do: a field that begins with one goes on to
    the next, over lines too.
    """
    with opened(path) as file:
        lines = io.TextIOWrapper(
            file, "utf-8-sig", errors="surrogateescape", newline=""
        )  # bad bytes spoil their row
        try:
            first = lines.readline(verify.MAX_BYTES)
            separator = "\t" if "\t" in first else ","
            header = next(csv.reader([first], delimiter=separator), [])
            _demand(path, columns, header)
            yield from _fields(csv.reader(lines, delimiter=separator), header, columns)
        except OSError as error:
            yield Record("", _damaged(error))


def _fields(reader: Any, header: list[str], columns: Sequence[str]) -> Iterator[Record]:
    places = [header.index(column) for column in columns]
    while True:
        key = str(reader.line_num + 2)  # the header is line 1
        try:
            row = next(reader, None)
        # as a quote that is never closed, after `csv.field_size_limit()` characters
        except csv.Error as error:
            yield Record(
                key,
                Unusable(
                    "broken CSV row", f"lines {key} to {reader.line_num + 1}: {error}"
                ),
            )
            continue
        if row is None:
            return
        if len(row) == len(header):
            yield Record(
                key,
                {
                    column: row[place]
                    for column, place in zip(columns, places, strict=True)
                },
            )
        elif row:
            yield Record(
                key,
                Unusable(
                    "wrong number of fields",
                    f"{len(row)}, the header has {len(header)}",
                ),
            )


def parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """Rows, keyed by their number from 0."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with path.open("rb") as file:
        try:
            # Without the pre-buffer: it would hold all the pictures of a row group in
            # memory.
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
        except (pa.ArrowException, OSError) as error:
            yield Record("", Unusable("not a parquet file", str(error)))
            return
        _demand(path, columns, parquet.schema_arrow.names)
        try:
            for batch in parquet.iter_batches(
                batch_size=ROWS, columns=list(columns), use_threads=False
            ):
                for row in range(batch.num_rows):
                    yield Record(str(number), _row(batch.slice(row, 1)))
                    number += 1
        except (pa.ArrowException, OSError) as error:
            yield Record(
                str(number),
                Unusable(
                    "damaged parquet file", f"nothing is read from here on: {error}"
                ),
            )


def columns_of(path: Path) -> list[str]:
    """The columns of a parquet file; none where it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except pa.ArrowException:
        return []


def _row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return Unusable("not UTF-8", str(error))


def _demand(path: Path, columns: Sequence[str], known: Sequence[str]) -> None:
    for column in columns:
        if column not in known:
            raise ConfigError(
                f"{path} has no column {column!r}{nearest(column, known)}"
            )


@lru_cache(maxsize=2)
def lookup(path: Path, key: str, value: str) -> dict[str, str]:
    """`key` -> `value` of a table, or of all the tables directly in a folder; kept in
    memory, where a row takes some 200 bytes beside its text. The first of equal keys
    counts; what is left out is said.

    Raises:
        OSError: it cannot be opened. ConfigError: a column is missing, or there is not
            one row.
    """
    parts = (
        sorted(part for part in path.iterdir() if kind(part) in ENDINGS)
        if path.is_dir()
        else [path]
    )
    table: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for record in (record for part in parts for record in rows(part, [key, value])):
        if isinstance(record.data, Unusable):
            left_out[record.data.reason] += 1
            continue
        name = record.data.get(key)
        content = record.data.get(value)
        if isinstance(name, (str, int)) and isinstance(content, str):
            table.setdefault(str(name), content)
        else:
            left_out[f"without {key} or {value}"] += 1
    if left_out:
        say(
            f"{path}: rows left out:"
            f" {', '.join(f'{count:,} {reason}' for reason, count in left_out.most_common())}"
        )
    if not table:
        raise ConfigError(
            f"{path} is no table with {key} and {value} ({', '.join(ENDINGS)})"
        )
    return table
