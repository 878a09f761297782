"""Tables, read one record at a time: parquet, CSV, TSV and JSON lines; all but parquet
also compressed (`mm1.prepare.compression`).

A truncated file gives the records before the break and one `Unusable` for the rest. In
a compressed file some kilobytes before the break are lost too, or the
compressor's block (128 KiB of zstd).
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm1.config import ConfigError, nearest
from mm1.dist import say
from mm1.prepare import verify
from mm1.prepare.compression import CODECS, open_decompressed
from mm1.prepare.csv_rows import CsvRows, Row
from mm1.prepare.lines import bounded_lines
from mm1.prepare.skipped import Skipped
from mm1.prepare.sources import Record, Unusable

PARQUET_BATCH = 4
"""Rows of a parquet file that are read at a time: a page may hold dozens of images."""

MAX_FIELDS = 1000
"""Different fields of JSON lines that are counted for one file."""

JSON_LINES = (".jsonl", ".ndjson", ".json")
SUFFIXES = (".parquet", ".csv", ".tsv", *JSON_LINES)


def table_suffix(path: Path) -> str:
    """The suffix that says what a file is: `.jsonl` for `a.jsonl.zst`."""
    return Path(
        path.stem if path.suffix in CODECS else path.name
    ).suffix.lower()


def read_table(
    path: Path, columns: Sequence[str], skipped: Skipped | None = None
) -> Iterator[Record]:
    """Rows of a table as dicts; its format is given by its name. JSON lines have all
    their fields, other formats only `columns`; the others are counted in `skipped`.

    Raises:
        OSError: the file cannot be opened.
        ConfigError: its header lacks one of `columns`; the nearest one is named.
    """
    suffix = table_suffix(path)
    path.stat()
    if suffix == ".parquet":
        yield from read_parquet(path, columns, skipped)
    elif suffix in (".csv", ".tsv"):
        yield from _read_csv(path, columns, skipped)
    elif suffix in JSON_LINES:
        yield from _read_objects(path, columns, skipped)
    else:
        detail = f"the name ends in none of {', '.join(SUFFIXES)}"
        yield Record("", Unusable("unknown kind of table", detail))


def _read_objects(
    path: Path, columns: Sequence[str], skipped: Skipped | None
) -> Iterator[Record]:
    others = None if skipped is None else OtherColumns(columns, skipped)
    for record in read_json_lines(path):
        data = record.data
        if others is not None and isinstance(data, dict):
            others.see(data)
        is_row = isinstance(data, (dict, Unusable))
        yield record if is_row else Record(record.key, not_an_object(data))


class OtherColumns:
    """Counts the fields of JSON objects that are not read, each once for a file."""

    def __init__(self, columns: Sequence[str], skipped: Skipped) -> None:
        self.known = set(columns)
        self.skipped = skipped

    def see(self, data: dict[str, Any]) -> None:
        others = data.keys() - self.known
        # Names of fields may be data, too.
        if others and len(self.known) < MAX_FIELDS:
            _skip_columns(self.skipped, sorted(others), ())
            self.known |= others


def not_an_object(value: Any) -> Unusable:
    return Unusable("no JSON object", f"the record is a {type(value).__name__}")


def read_json_lines(path: Path) -> Iterator[Record]:
    """One record a line, keyed by line number from 1; blank lines are skipped."""
    with open_decompressed(path) as file:
        number = 0
        try:
            for line in bounded_lines(file):
                number += 1
                if isinstance(line, Unusable):
                    yield Record(str(number), line)
                elif line.strip():
                    yield Record(str(number), _parse_line(line))
        except OSError as error:
            yield Record(str(number + 1), _damaged(error))


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(verify.decode_utf8(line))
    except Unusable as error:
        return error
    except (ValueError, RecursionError) as error:
        return Unusable("broken JSON line", str(error).replace("line 1 ", ""))


def _damaged(error: Exception, what: str = "damaged file") -> Unusable:
    return Unusable(what, f"nothing is read from here on: {error}")


def _read_csv(
    path: Path, columns: Sequence[str], skipped: Skipped | None
) -> Iterator[Record]:
    """Rows below a header, keyed by the line that they begin at; the separator is a tab
    if the header has one, else a comma."""
    with open_decompressed(path) as file:
        # With surrogates for bad bytes, these spoil only their own row.
        text = io.TextIOWrapper(
            file, "utf-8-sig", errors="surrogateescape", newline=""
        )
        number = 1
        try:
            lines = bounded_lines(text)
            first = next(lines, "")
            if isinstance(first, Unusable):
                yield Record("1", first)
                return
            header, separator = _parse_header(first)
            _choose_columns(path, columns, header, skipped)
            indices = {column: header.index(column) for column in columns}
            rows = CsvRows(lines, separator, len(header), start=2)
            for number, row in rows:
                yield Record(str(number), _parse_csv_row(row, header, indices))
        except OSError as error:
            yield Record(str(number + 1), _damaged(error))


def _parse_header(line: str) -> tuple[list[str], str]:
    """The columns of CSV and what separates them."""
    separator = "\t" if "\t" in line else ","
    return next(csv.reader([line], delimiter=separator), []), separator


def csv_header(path: Path) -> list[str]:
    """The columns of a CSV file; empty if it is damaged."""
    try:
        with open_decompressed(path) as file:
            line = file.readline(verify.MAX_LINE)
    except OSError:
        return []
    return _parse_header(line.decode("utf-8-sig", "surrogateescape"))[0]


def _parse_csv_row(row: Row, header: list[str], indices: dict[str, int]) -> Any:
    if isinstance(row, Unusable):
        return row
    if len(row) != len(header):
        detail = f"{len(row)}, the header has {len(header)}"
        return Unusable("wrong number of fields", detail)
    return {column: row[i] for column, i in indices.items()}


def read_parquet(
    path: Path, columns: Sequence[str], skipped: Skipped | None = None
) -> Iterator[Record]:
    """Rows, keyed by their number from 0; `skipped` counts the other columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with path.open("rb") as file:
        try:
            # Pre-buffering would hold all images of a row group in memory.
            parquet = pq.ParquetFile(
                file, pre_buffer=False, buffer_size=1 << 20
            )
        except (pa.ArrowException, OSError) as error:
            yield Record("", Unusable("not a parquet file", str(error)))
            return
        _choose_columns(path, columns, parquet.schema_arrow.names, skipped)
        try:
            for batch in parquet.iter_batches(
                batch_size=PARQUET_BATCH,
                columns=list(columns),
                use_threads=False,
            ):
                for row in range(batch.num_rows):
                    yield Record(str(number), _parse_row(batch.slice(row, 1)))
                    number += 1
        except (pa.ArrowException, OSError) as error:
            yield Record(str(number), _damaged(error, "damaged parquet file"))


def parquet_columns(path: Path) -> list[str]:
    """The columns of a parquet file; empty if it is not one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except pa.ArrowException:
        return []


def _parse_row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return Unusable("not UTF-8", str(error))


def _choose_columns(
    path: Path,
    columns: Sequence[str],
    known: Sequence[str],
    skipped: Skipped | None,
) -> None:
    """Refuse a file without one of `columns`; count the columns that are not read."""
    for column in columns:
        if column not in known:
            raise ConfigError(
                f"{path} has no column {column!r}{nearest(column, known)}"
            )
    if skipped is not None:
        _skip_columns(skipped, known, columns)


def _skip_columns(
    skipped: Skipped, known: Iterable[str], columns: Iterable[str]
) -> None:
    for column in known:
        if column not in columns:
            skipped.add("column", column)


@lru_cache(maxsize=2)
def load_mapping(path: Path, key: str, value: str) -> dict[str, str]:
    """Column `key` -> column `value` of a table, or of all tables directly in a folder.

    Held in memory, where a row takes some 200 bytes besides its text. Of equal keys the
    first is used; rows left out are reported.

    Raises:
        OSError: it cannot be opened.
        ConfigError: a column is missing, or there is no usable row.
    """
    parts = [path]
    if path.is_dir():
        parts = sorted(
            part for part in path.iterdir() if table_suffix(part) in SUFFIXES
        )
    mapping: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for record in (
        each for part in parts for each in read_table(part, [key, value])
    ):
        if isinstance(record.data, Unusable):
            left_out[record.data.reason] += 1
            continue
        name = record.data.get(key)
        content = record.data.get(value)
        if isinstance(name, (str, int)) and isinstance(content, str):
            mapping.setdefault(str(name), content)
        else:
            left_out[f"without {key} or {value}"] += 1
    if left_out:
        counts = [
            f"{count:,} {reason}" for reason, count in left_out.most_common()
        ]
        say(f"{path}: rows left out: {', '.join(counts)}")
    if not mapping:
        raise ConfigError(
            f"{path} is not a table with {key} and {value} ({', '.join(SUFFIXES)})"
        )
    return mapping
