"""Images that records name by path or URL, read from one folder and nowhere else.

Records are not trusted: a path that leads out of the folder (`../x.jpg`,
`/etc/passwd`) is refused by its name alone. Links inside the folder belong to its owner
and are followed. Nothing is ever downloaded. The file of a URL is looked up under a
name made from it:

    sha256      the URL's SHA-256 in hex, with or without one of IMAGE_SUFFIXES
    basename    the last part of the URL's path: `b.jpg` of `http://x.org/a/b.jpg?w=9`
    PATH        a table or a folder of tables with columns `url` and `path`, or `url`
                and `key` as img2dataset writes them next to its folders of files: the
                image with key 000410007 is 00041/000410007.jpg
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.prepare import tables, verify
from mm1.prepare.inline_images import decode_inline_image, is_inline_image
from mm1.prepare.sources import (
    IMAGE_SUFFIXES,
    Source,
    Unusable,
    raw_image,
)
from mm1.storage.remote_path import RemotePath, as_path

_HOLDERS = ("bytes", "path", "url")
SHARD_DIGITS = 5
"""img2dataset's keys begin with the number of their folder."""


class ImageFolder:
    """One folder of images."""

    def __init__(self, folder: Path, urls: str = "") -> None:
        """`urls`: how to find the file of a URL (see above); empty: it is not looked
        up.

        Raises:
            ConfigError: neither a known rule nor an existing table.
        """
        if (
            urls not in ("", "sha256", "basename")
            and not as_path(urls).exists()
        ):
            raise ConfigError(
                f"urls must be sha256, basename or a table of URLs, not {urls!r}: no"
                " such file"
            )
        self.folder = folder
        self.urls = urls

    def read(self, value: Any) -> Image:
        """An image as a record has it: bytes, a path, a URL, a data URI, base64, or
        Hugging Face's {"bytes", "path"}.

        What cannot be read is a `MissingImage`; a URL that is not looked up stands in
        place of the bytes.
        """
        if isinstance(value, dict):
            value = next(
                (value[key] for key in _HOLDERS if value.get(key)), None
            )
        if isinstance(value, bytes):
            return raw_image(value)
        if value is None:
            return raw_image(Unusable("no image"))
        if not isinstance(value, str):
            return raw_image(
                Unusable("no image path", f"it is a {type(value).__name__}")
            )
        url = value if is_url(value) else ""
        try:
            if is_inline_image(value):
                return raw_image(decode_inline_image(value))
            if not url:
                return raw_image(self._read_file(value.removeprefix("file://")))
            return raw_image(self._read_url(url) if self.urls else url, url)
        except Unusable as why:
            return raw_image(why, url)

    def _read_url(self, url: str) -> bytes:
        name = self._name_of_url(url)
        if not name:
            raise Unusable("missing image file", f"no name for {url}")
        for suffix in ("", *IMAGE_SUFFIXES):
            if (self.folder / self._relative(name + suffix)).is_file():
                return self._read_file(name + suffix)
        raise Unusable("missing image file", f"{name} of {url}")

    def _name_of_url(self, url: str) -> str:
        if self.urls == "sha256":
            return hashlib.sha256(
                url.encode("utf-8", "surrogatepass")
            ).hexdigest()
        if self.urls == "basename":
            try:
                return PurePosixPath(unquote(urlsplit(url).path)).name
            except ValueError as error:  # http://[x, for example
                raise Unusable(
                    "broken image address", f"{url[:200]}: {error}"
                ) from error
        names, has_keys = self._table
        name = names.get(url, "")
        return f"{name[:SHARD_DIGITS]}/{name}" if name and has_keys else name

    @cached_property
    def _table(self) -> tuple[dict[str, str], bool]:
        """URL -> path, or URL -> img2dataset's key (True)."""
        table = as_path(self.urls)
        parts = sorted(table.glob("*.parquet")) if table.is_dir() else []
        first = parts[0] if parts else table
        has_keys = tables.table_suffix(
            first
        ) == ".parquet" and "path" not in tables.parquet_columns(first)
        names = tables.load_mapping(table, "url", "key" if has_keys else "path")
        return names, has_keys

    def _relative(self, name: str) -> str:
        """A path relative to the folder; raises `Unusable` if it is not inside."""
        is_local = not isinstance(self.folder, RemotePath)
        path = os.path.normpath(
            os.path.relpath(name, self.folder)
            if os.path.isabs(name) and is_local
            else name
        )
        if os.path.isabs(path) or path.split(os.sep)[0] == os.pardir:
            raise Unusable(
                "path out of the image folder",
                f"{name!r} is not in {self.folder}",
            )
        return path

    def _read_file(self, name: str) -> bytes:
        try:
            file = self.folder / self._relative(name)
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise Unusable(
                    "unreadable image file", f"{name} is not a regular file"
                )
            if status.st_size > verify.MAX_BYTES:
                raise Unusable(
                    "file too large",
                    f"{file}; the limit is {verify.MAX_BYTES:,} bytes",
                )
            return file.read_bytes()
        except Unusable:
            raise
        # ValueError: a path with a NUL character.
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            raise Unusable(
                "missing image file" if missing else "unreadable image file",
                f"{name}: {error}",
            ) from error


class ImageFolderSource(Source):
    """A source whose records may name their images by path or URL."""

    NAMES_IMAGES = True

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        folder: str = ""
        """Where images lie that are given by path or URL; empty: the folder of the
        file."""
        urls: str = ""
        """How to find the file of a URL there: sha256, basename, or a table; empty:
        URLs are not looked up."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def image_folder(self, file: Path) -> ImageFolder:
        """The images of the records in a file, or in a folder that is read as one."""
        default = file if file.is_dir() else file.parent
        return ImageFolder(
            as_path(self.config.folder or default), self.config.urls
        )


def is_url(value: str) -> bool:
    return value[:8].lower().startswith(("http://", "https://"))
