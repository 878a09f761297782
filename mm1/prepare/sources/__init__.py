"""The contract of a source: one raw format, read record by record into documents.

To add one, add a file with a subclass of `Source` to this folder: `mm1 prepare <file
name> PATHS...` reads it and `tests/prepare/test_sources.py` covers it. No record is
lost silently: `read` and `document` say why one cannot be used by an `Unusable`, which
prepare counts and lists with its file and key.

A source checks the shape of its records only. It passes images on undecoded, with width
and height 0: `mm1.prepare.verify` decodes each of them once, measures it and refuses
what is not an image.
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
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU"
    "5ErkJggg=="
)
"""The smallest PNG, one grey pixel: the image of the examples."""


class Unusable(ValueError):
    """Why a record or an image is dropped.

    `reason` is a short constant ("empty caption") by which drops are counted.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Record:
    """One raw record."""

    key: str
    """Identifies it in its file: a WebDataset key, a line or row number."""
    data: Any
    """What the format holds, or an `Unusable` if the record could not be read."""


class Source(Configurable):
    """Reads files of one raw format."""

    EXAMPLE: ClassVar[Any]
    """The `data` of one record: documents the format, and is its test."""

    PATTERNS: ClassVar[tuple[str, ...]]
    """Patterns of file names to look for in a folder, such as `*.tar`."""

    READS_FOLDERS: ClassVar[bool] = False
    """Whether a folder of many small files is read as one: its files at any depth are
    the records."""

    IMAGES_REQUIRED: ClassVar[bool] = True
    """Whether a document is dropped if one of its images cannot be used; otherwise only
    the image is."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        def build(self) -> "Source":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config
        self.noted: Counter[str] = Counter()
        """Counts for the manifest besides documents and drops, such as captions
        replaced."""

    @classmethod
    def find(cls, path: Path) -> list[Path]:
        """The paths to call `read` with, for a path that the user names.

        Raises:
            FileNotFoundError: there is nothing to read.
        """
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        if not path.is_dir():
            return [path]
        if not (files := cls.files_in(path)):
            raise FileNotFoundError(
                f"{path} has no file for this source ({', '.join(cls.PATTERNS)})"
            )
        return [path] if cls.READS_FOLDERS else files

    @classmethod
    def files_in(cls, folder: Path) -> list[Path]:
        """The files of this source in a folder, sorted; with `READS_FOLDERS` at any
        depth."""
        search = folder.rglob if cls.READS_FOLDERS else folder.glob
        matches = {file for pattern in cls.PATTERNS for file in search(pattern)}
        return sorted(file for file in matches if file.is_file())

    def read(self, path: Path) -> Iterator[Record]:
        """Yield the records of one of the paths that `find` returned, in order.

        Raises:
            OSError: the file cannot be opened at all.
            ConfigError: the file lacks what the config names, such as a column.
        """
        raise NotImplementedError

    def document(self, data: Any) -> Document:
        """One record as a document; raises `Unusable` if it cannot be one."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingImage(Image):
    """Stands in a document for an image that could not be read."""

    why: Unusable


def raw_image(
    content: "bytes | str | Unusable | Image", url: str = ""
) -> Image:
    """An image as a record has it, not decoded yet.

    `content` is its bytes, a URL in place of them, or the reason why it is missing.
    """
    if isinstance(content, Image):
        return content
    if isinstance(content, Unusable):
        return MissingImage(data=b"", width=0, height=0, url=url, why=content)
    data = (
        content.encode("utf-8", "replace")
        if isinstance(content, str)
        else content
    )
    return Image(data, width=0, height=0, url=url)
