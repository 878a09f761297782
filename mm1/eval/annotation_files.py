"""Annotation files and image folders of benchmarks, read strictly: errors name the file
and the record."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.data.image_processing import ImageError, image_size
from mm1.files import path_within


def read_annotations(
    name: str, field: str, keys: Sequence[str] | None
) -> tuple[Path, Any]:
    """The path and the content of a JSON annotation file.

    Args:
        name: the file.
        field: the config field that names it, for messages.
        keys: what the object in the file must have; if empty, its keys are record ids,
            which must be unique. None: the file holds a list.

    Raises:
        ConfigError: `name` is empty.
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, not an object or list as expected, lacks a key, or
            has a record id twice.
    """
    path = _annotation_path(name, field)
    try:
        data = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_unique_keys if keys == () else None,
        )
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{field}: there is no file {path}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(data, list if keys is None else dict):
        raise ValueError(
            f"{path} does not hold {'a list' if keys is None else 'an object'}: does it"
            " belong to another data set?"
        )
    if missing := [key for key in keys or () if key not in data]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    return path, data


def read_annotation_lines(
    name: str, field: str
) -> tuple[Path, list[dict[str, Any]]]:
    """The path and the records of a file with one JSON object on each line.

    Raises:
        ConfigError, FileNotFoundError, ValueError: as `read_annotations`, with the
            number of the line.
    """
    path = _annotation_path(name, field)
    records = []
    try:
        with path.open("rb") as file:
            lines = list(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{field}: there is no file {path}") from error
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: line {number} is not JSON: {error}"
            ) from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is not an object")
        records.append(record)
    return path, records


def _annotation_path(name: str, field: str) -> Path:
    if not name:
        raise ConfigError(f"{field} is empty: name an annotation file")
    return Path(name)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; by itself `json` keeps the last of two equal keys."""
    if len(unique := dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} occurs twice")
    return unique


def require_text(
    texts: Iterable[str], path: Path, owner: str, kind: str
) -> tuple[str, ...]:
    """The captions or answers of a record.

    Raises:
        ValueError: all of them are empty.
    """
    texts = tuple(texts)
    if not any(text.strip() for text in texts):
        raise ValueError(f"{path}: {owner} has no {kind}")
    return texts


def single_spaced(caption: str) -> str:
    """White space as single spaces: a line break would end a demonstration."""
    return " ".join(caption.split())


def index_by(
    records: Iterable[dict[str, Any]], key: str, path: Path
) -> dict[Any, dict[str, Any]]:
    """The records by the value of their `key`, in order.

    Raises:
        ValueError: two records share a value, or one has no such key.
    """
    index: dict[Any, dict[str, Any]] = {}
    for number, record in enumerate(records):
        if key not in record:
            raise ValueError(f"{path}: record {number} has no {key}")
        if record[key] in index:
            raise ValueError(f"{path}: {key} {record[key]} occurs twice")
        index[record[key]] = record
    return index


class BenchmarkImages:
    """The folder of a benchmark's images, listed once so that a missing image shows
    before the first question."""

    def __init__(self, name: str, field: str) -> None:
        """Lists the folder.

        Args:
            name: the folder.
            field: the config field that names it, for messages.

        Raises:
            ConfigError: `name` is empty.
            FileNotFoundError: there is no such folder.
        """
        if not name:
            raise ConfigError(f"{field} is empty: name the image folder")
        self.path = Path(name)
        if not self.path.is_dir():
            raise FileNotFoundError(f"{field}: there is no folder {self.path}")
        self.names = set(os.listdir(self.path))

    def image_path(self, name: str, owner: str) -> Path:
        """The path of an image.

        Raises:
            FileNotFoundError: there is no such file; the message names `owner`, the
                question.
            ConfigError: the name leads out of the folder.
        """
        path = path_within(self.path, name, f"{owner}: the image")
        if name not in self.names and not path.is_file():
            raise FileNotFoundError(f"{owner}: no image at {path}")
        return path


def read_image(source: Path | bytes, owner: str) -> Image:
    """The image of a record, from its encoded bytes or a file.

    Raises:
        FileNotFoundError: there is no such file; the message names `owner`, the
            question.
        ImageError: it is not an image.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        width, height = image_size(data)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{owner}: no image at {source}") from error
    except ImageError as error:
        place = "its image" if isinstance(source, bytes) else source
        raise ImageError(f"{owner}: {place}: {error}") from error
    return Image(data, width, height)
