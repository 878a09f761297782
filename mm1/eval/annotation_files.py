"""Annotation files of benchmarks: read strictly, with the file and the record named
where something is amiss."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mm1.config import ConfigError


def read_json(name: str, field: str, keys: Sequence[str] | None) -> tuple[Path, Any]:
    """The path and the content of a file: an object with all of `keys`, or a list where
    `keys` is None.

    Without any keys, those of the object are records' names. `field` is the config's
    field that names the file.

    Raises:
        ConfigError: the field is empty.
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, holds something else, lacks a key, or names a record
            twice.
    """
    if not name:
        raise ConfigError(f"{field} is empty: name an annotations file")
    path = Path(name)
    try:
        data = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_named_once if keys == () else None,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{field}: there is no file {path}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not sound JSON: {error}") from error
    if not isinstance(data, list if keys is None else dict):
        raise ValueError(
            f"{path} holds no {'list' if keys is None else 'object'}: is it another"
            " data set's?"
        )
    if missing := [key for key in keys or () if key not in data]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return path, data


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which by itself keeps the last of two values."""
    if len(found := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"{next(name for name in names if names.count(name) > 1)} occurs twice"
        )
    return found


def given(texts: Iterable[str], path: Path, owner: str, kind: str) -> tuple[str, ...]:
    """The captions or answers of a record.

    Raises:
        ValueError: none has a word in it.
    """
    found = tuple(texts)
    if not any(text.strip() for text in found):
        raise ValueError(f"{path}: {owner} has no {kind}")
    return found


def one_line(caption: str) -> str:
    """White space inside as single spaces: a line break would end a shot's caption."""
    return " ".join(caption.split())


def index(
    records: Iterable[dict[str, Any]], key: str, path: Path
) -> dict[Any, dict[str, Any]]:
    """The records by their `key`, in order.

    Raises:
        ValueError: two records share a key, or one has none.
    """
    found: dict[Any, dict[str, Any]] = {}
    for number, record in enumerate(records):
        if key not in record:
            raise ValueError(f"{path}: record {number} has no {key}")
        if record[key] in found:
            raise ValueError(f"{path}: {key} {record[key]} occurs twice")
        found[record[key]] = record
    return found


class Folder:
    """A folder of pictures, listed once: a missing one shows before the first question
    is asked."""

    def __init__(self, name: str, field: str) -> None:
        """Raises ConfigError or FileNotFoundError where the config's `field` names no
        folder."""
        if not name:
            raise ConfigError(f"{field} is empty: name the folder of the pictures")
        self.path = Path(name)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{field}: there is no folder {self.path}")
        self.names = set(os.listdir(self.path))

    def picture(self, name: str, owner: str) -> Path:
        """The path of a picture; raises FileNotFoundError with `owner`, the question's
        name."""
        path = self.path / name
        if name not in self.names and not path.is_file():
            raise FileNotFoundError(f"{owner}: no picture at {path}")
        return path


def read_lines(name: str, field: str) -> tuple[Path, list[dict[str, Any]]]:
    """The path and the records of a file with one JSON object on each line.

    Raises:
        ConfigError, FileNotFoundError, ValueError: as `read_json`; the line is named.
    """
    if not name:
        raise ConfigError(f"{field} is empty: name an annotations file")
    path = Path(name)
    records = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{field}: there is no file {path}") from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} holds no object")
        records.append(record)
    return path, records
