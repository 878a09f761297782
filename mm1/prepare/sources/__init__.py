"""The contract of a source: one raw format, read record by record into documents.

To add one, add a file with a subclass of `Source` to this folder: `mm1 prepare <file
name> PATHS...` reads it and `tests/prepare/test_sources.py` covers it. No record is
lost silently: `read` and `document` say why one cannot be used by an `Unusable`, which
prepare counts and lists with its file and key. What is not a record of this source at
all, such as a link in a tar, a further column or an unknown part of a message, is
counted with its name in `Source.skipped`.

A source checks the shape of its records only. It passes images on undecoded, with width
and height 0: `mm1.prepare.verify` decodes each of them once, measures it and refuses
what is not an image.
"""

import base64
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from mm1.config import Configurable
from mm1.data.document import Document, Image
from mm1.data.image_decoding import FORMATS
from mm1.prepare.bounded_text import shorten
from mm1.prepare.skipped import Skipped

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU"
    "5ErkJggg=="
)
"""The smallest PNG, one grey pixel: the image of the examples."""

IMAGE_SUFFIXES = tuple(
    suffix
    for kind, suffixes in {
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
        "PNG": (".png",),
        "WEBP": (".webp",),
        "GIF": (".gif",),
        "BMP": (".bmp",),
        "TIFF": (".tif", ".tiff"),
        "AVIF": (".avif",),
    }.items()
    if kind in FORMATS
    for suffix in suffixes
)
"""Names of the images that every source reads end in one of these, in any case of
letters; of two images of one name, the first kind is taken."""

IMAGE_KINDS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)

MAX_DETAIL = 400
"""Characters of a detail, which may quote the data; a longer one loses its middle."""


class Unusable(ValueError):
    """Why a record or an image is dropped.

    `reason` is a short constant ("empty caption") by which drops are counted.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        detail = shorten(detail, MAX_DETAIL)
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

    NAMES_IMAGES: ClassVar[bool] = False
    """Whether records name images that lie in the folder or below it."""

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
        self.skipped = Skipped()
        """What `read` and `document` met that is not of this source's kind."""

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
        return [path for path in cls._walk(folder) if cls._is_ours(path)]

    @classmethod
    def skipped_in(cls, folder: Path) -> Skipped:
        """What else is in a folder that `find` searched; but not images that records
        may name, and the folders of these."""
        skipped = Skipped()
        if not cls.PATTERNS:  # a library finds the files
            return skipped
        for path in cls._walk(folder):
            if not cls._is_ours(path) and not cls._may_be_named(path):
                name = path.relative_to(folder).as_posix()
                skipped.add(_kind_of_file(path), name)
        return skipped

    @classmethod
    def _walk(cls, folder: Path) -> list[Path]:
        """All entries, sorted; with `READS_FOLDERS` all files at any depth."""
        if not cls.READS_FOLDERS:
            return sorted(folder.iterdir())
        return sorted(
            path
            for path in folder.rglob("*")
            if path.is_symlink() or not path.is_dir()
        )

    @classmethod
    def _is_ours(cls, path: Path) -> bool:
        """Whether a file's name says that this source reads it, in any case of letters;
        `._a.txt` is macOS's metadata of `a.txt`."""
        name = path.name.lower()
        return (
            not name.startswith("._")
            and any(fnmatchcase(name, pattern) for pattern in cls.PATTERNS)
            and path.is_file()
        )

    @classmethod
    def _may_be_named(cls, path: Path) -> bool:
        is_image = path.suffix.lower() in IMAGE_SUFFIXES or path.is_dir()
        return cls.NAMES_IMAGES and is_image and path.name[0] != "."

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


def _kind_of_file(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden file"
    if path.is_dir():
        return "linked folder" if path.is_symlink() else "folder"
    if not path.is_file():
        return "link to nothing" if path.is_symlink() else "special file"
    return f"{path.suffix.lower()} file" if path.suffix else "file"


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
