"""Pictures that records name by path or by URL, read from one folder and from nowhere
else.

What a record says is not to be trusted: a path that leads out of the folder
(`../x.jpg`, `/etc/passwd`) is refused, by its name alone; links that lie in the folder
are its owner's and are followed. Nothing is ever fetched. For a URL a file is looked
for under a name that is made from it:

    sha256      <the URL's SHA-256 in hex>, with or without one of ENDINGS
    basename    the last part of the URL's path, `b.jpg` of `http://x.org/a/b.jpg?w=9`
    PATH        what a table, or a folder of tables, says: columns `url` and `path`, or `url` and `key` as img2dataset
                writes them beside its folders of files, whose picture 000410007 is
                00041/000410007.jpg
"""

import hashlib
import os
import stat
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.prepare import tables, verify
from mm1.prepare.sources import Unusable, found

ENDINGS = ("", ".jpg", ".jpeg", ".png", ".webp", ".gif")
SHARD_DIGITS = 5
"""img2dataset's keys begin with the number of their folder."""


class ImageFolder:
    """One folder of pictures."""

    def __init__(self, folder: Path, urls: str = "") -> None:
        """`urls`: how pictures of URLs are called (see above); empty: they are not
        looked for.

        Raises:
            ConfigError: it is no known rule and no table that exists.
        """
        if urls not in ("", "sha256", "basename") and not Path(urls).exists():
            raise ConfigError(
                f"urls must be sha256, basename or a table of URLs, not {urls!r}: no"
                " such file"
            )
        self.folder = folder
        self.urls = urls

    def read(self, value: Any) -> Image:
        """A picture as a record has it: bytes, a path, a URL, or Hugging Face's
        {"bytes", "path"}.

        What cannot be had is `Lost`; a URL that is not looked for stands in its place.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return found(value)
        if value is None:
            return found(Unusable("no image"))
        if not isinstance(value, str):
            return found(Unusable("no image path", f"it is a {type(value).__name__}"))
        url = value if is_url(value) else ""
        try:
            return found(
                (
                    self._file(value)
                    if not url
                    else self._of_url(url)
                    if self.urls
                    else url
                ),
                url,
            )
        except Unusable as why:
            return found(why, url)

    def _of_url(self, url: str) -> bytes:
        if self.urls == "sha256":
            name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        elif self.urls == "basename":
            try:
                name = PurePosixPath(unquote(urlsplit(url).path)).name
            except ValueError as error:  # as http://[x
                raise Unusable(
                    "broken image address", f"{url[:200]}: {error}"
                ) from error
        else:
            known, has_keys = self._table
            name = known.get(url, "")
            name = f"{name[:SHARD_DIGITS]}/{name}" if name and has_keys else name
        if not name:
            raise Unusable("missing image file", f"no name for {url}")
        for ending in ENDINGS:
            if (self.folder / self._inside(name + ending)).is_file():
                return self._file(name + ending)
        raise Unusable("missing image file", f"{name} of {url}")

    @cached_property
    def _table(self) -> tuple[dict[str, str], bool]:
        """URL -> path, or -> img2dataset's key (True)."""
        table = Path(self.urls)
        first = (
            next(iter(sorted(table.glob("*.parquet"))), table)
            if table.is_dir()
            else table
        )
        has_keys = tables.kind(first) == ".parquet" and "path" not in tables.columns_of(
            first
        )
        return tables.lookup(table, "url", "key" if has_keys else "path"), has_keys

    def _inside(self, name: str) -> str:
        """The path as it stands in the folder."""
        path = os.path.normpath(
            os.path.relpath(name, self.folder) if os.path.isabs(name) else name
        )
        if path.split(os.sep)[0] == os.pardir:
            raise Unusable(
                "path out of the image folder", f"{name!r} is not in {self.folder}"
            )
        return path

    def _file(self, name: str) -> bytes:
        try:
            file = self.folder / self._inside(name)
            found = file.stat()
            if not stat.S_ISREG(found.st_mode):
                raise Unusable("unreadable image file", f"{name} is no regular file")
            if found.st_size > verify.MAX_BYTES:
                raise Unusable(
                    "file too large", f"{file}; the limit is {verify.MAX_BYTES:,} bytes"
                )
            return file.read_bytes()
        except Unusable:
            raise
        except (
            OSError,
            ValueError,
        ) as error:  # ValueError: a path with a NUL character
            missing = isinstance(error, FileNotFoundError)
            raise Unusable(
                "missing image file" if missing else "unreadable image file",
                f"{name}: {error}",
            ) from error


def is_url(value: str) -> bool:
    return value[:8].lower().startswith(("http://", "https://"))
