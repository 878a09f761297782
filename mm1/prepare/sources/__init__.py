"""What a source is: one raw format, read record by record into documents.

To add one, add a file to this folder with a subclass of `Source`: `mm1 prepare <file
name> PATHS...` then reads it, and `tests/data/test_sources.py` covers it. A record that
cannot be used is never lost in silence: `read` and `document` say why by an `Unusable`,
and prepare counts it and lists it with its file and key.

A source looks at the shape of its records alone. Pictures come as found, with width and
height 0: `mm1.prepare.verify` decodes each of them once at prepare time, measures it
and refuses what is none.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mm1.config import Configurable
from mm1.data.document import Document, Image

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
)
"""The smallest PNG, one grey pixel: the picture of the examples."""


class Unusable(ValueError):
    """Why a record is dropped. `reason` is a short constant ("empty caption") that
    drops are counted by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Record:
    """One raw record: `key` finds it again in its file (a WebDataset key, a line or row
    number)."""

    key: str
    data: Any
    """What the format holds, or an `Unusable` where the record itself could not be
    read."""


class Source(Configurable):
    """Reads files of one raw format."""

    EXAMPLE: ClassVar[Any]
    """The `data` of one record: the format's documentation and its test."""

    PATTERNS: ClassVar[tuple[str, ...]]
    """Patterns of file names that a folder is searched for, such as `*.tar`."""

    READS_FOLDERS: ClassVar[bool] = False
    """Are files so small that a folder of them is read as one? Its files at any depth
    are the records then."""

    PICTURES_MATTER: ClassVar[bool] = True
    """Is a document dropped where one of its pictures cannot be read? Else the picture
    alone is."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        def build(self) -> "Source":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config
        self.noted: Counter[str] = Counter()
        """What is worth counting beside documents and drops, such as captions replaced;
        it stands in the manifest."""

    @classmethod
    def find(cls, path: Path) -> list[Path]:
        """What `read` is called with, each by itself, for a path that a user names.

        Raises:
            FileNotFoundError: there is nothing to read.
        """
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        if not path.is_dir():
            return [path]
        if not (files := cls.files_in(path)):
            raise FileNotFoundError(
                f"{path} holds no file of this source ({', '.join(cls.PATTERNS)})"
            )
        return [path] if cls.READS_FOLDERS else files

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        """The files of this source, in order: directly in the folder, or at any depth
        where folders are read."""
        search = folder.rglob if cls.READS_FOLDERS else folder.glob
        return sorted(
            {
                file
                for pattern in cls.PATTERNS
                for file in search(pattern)
                if file.is_file()
            }
        )

    def read(self, path: Path) -> Iterator[Record]:
        """The records of one file, in order, one in memory at a time. `path` is one of
        those that `find` gave.

        Raises:
            OSError: the file cannot be opened at all.
            ConfigError: the file lacks what the config says it has, as a column.
        """
        raise NotImplementedError

    def document(self, data: Any) -> Document:
        """One record as a document; raises `Unusable` where it cannot be one."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Image):
    """The place of a picture that could not be had."""

    why: Unusable


def found(picture: "bytes | str | Unusable | Image", url: str = "") -> Image:
    """A picture as found in a record: bytes, or the URL that stands in their place, or
    why there is none. Not looked at yet."""
    if isinstance(picture, Image):
        return picture
    if isinstance(picture, Unusable):
        return Lost(data=b"", width=0, height=0, url=url, why=picture)
    data = picture.encode("utf-8", "replace") if isinstance(picture, str) else picture
    return Image(data, width=0, height=0, url=url)
