"""Web pages: text and `<img>` in reading order, as MM1 made its own interleaved data
(arXiv 2403.09611, appendix A).

A folder is read at any depth: `.html` and `.htm` files, one page each, and tables of
pages (parquet, JSON lines) with a column `html`. Navigation, forms, scripts, styles and
the like are dropped (`mm1.prepare.html`), titles and alternative texts too.

    <h1>Our trip</h1> <p>To the lake. <img src="img/lake.jpg"> It was cold.

Images are read from a folder, by default the one that is read: `img/lake.jpg` of
`a/b.html` is `a/img/lake.jpg`, `/lake.jpg` is `lake.jpg`. The `src` of a table's row is
resolved against its column `url`, if one is named, and looked up as `urls` says. An
image that cannot be read is left out of its page and counted.
"""

import codecs
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from mm1.data.document import Document, Image
from mm1.prepare import tables, verify
from mm1.prepare.compression import COMPRESSED_LINES
from mm1.prepare.html import HtmlReader
from mm1.prepare.image_folder import ImageFolder, ImageFolderSource, is_url
from mm1.prepare.samples import read_small_file
from mm1.prepare.sources import DOT, Record, Unusable, raw_image
from mm1.prepare.sources.interleaved import parse_interleaved_page

CHARSET_WITHIN = 1024
"""Bytes from the start in which a page declares its encoding, by the HTML standard."""


class HtmlPages(ImageFolderSource):
    """Text and images of a page in reading order."""

    EXAMPLE = {
        "html": "<h1>Our trip</h1> <p>To the lake. <img src='lake.png'> Cold!",
        "images": {"lake.png": DOT},
    }
    PATTERNS = ("*.html", "*.htm", "*.parquet", "*.jsonl", *COMPRESSED_LINES)
    READS_FOLDERS = True
    IMAGES_REQUIRED = False

    @dataclass(kw_only=True, slots=True)
    class Config(ImageFolderSource.Config):
        html: str = "html"
        """The column of a table that holds the page."""
        url: str = ""
        """The column with the page's address, which relative addresses of images are
        resolved against; empty: there is none."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        config = self.config
        root = path if path.is_dir() else path.parent
        folder = self.image_folder(path)
        columns = [config.html, *([config.url] if config.url else [])]
        for file in self.files_in(path) if path.is_dir() else [path]:
            name = file.relative_to(root).as_posix()
            if tables.table_suffix(file) in tables.SUFFIXES:
                for record in tables.read_table(file, columns, self.skipped):
                    key = record.key if file == path else f"{name}#{record.key}"
                    yield Record(
                        key, self._read_images(record.data, "", folder)
                    )
            else:
                content = (
                    read_small_file(file)
                    if path.is_dir()
                    else path.read_bytes()
                )
                data = self._read_images({config.html: content}, name, folder)
                yield Record(name, data)

    def _read_images(self, data: Any, name: str, folder: ImageFolder) -> Any:
        """The page as `document` takes it; `name` is that of its file in its folder;
        empty: it is a row of a table."""
        if isinstance(data, Unusable):
            return data
        html = data.get(self.config.html)
        if isinstance(html, Unusable):
            return html
        try:
            html = _decode(html) if isinstance(html, bytes) else html
            page = _parse(html)
        except Unusable as why:
            return why
        url = data.get(self.config.url)
        url = url if isinstance(url, str) else ""
        for kind, count in page.left_out.items():
            self.skipped.add(kind, name or url or "a row", count)
        sources = {part.src for part in page.parts if not isinstance(part, str)}
        images = {src: _read_image(src, name, url, folder) for src in sources}
        return {"html": html, "images": images}

    def document(self, data: Any) -> Document:
        parts = _parse(data["html"]).parts
        images = data["images"]
        return parse_interleaved_page(
            [
                None if isinstance(part, str) else images[part.src]
                for part in parts
            ],
            [part if isinstance(part, str) else None for part in parts],
        )


def _parse(html: Any) -> HtmlReader:
    """A reader that has read the page."""
    reader = HtmlReader()
    try:
        reader.read(verify.check_text(html, "html"))
    except Unusable:
        raise
    except ValueError as error:
        raise Unusable("broken HTML", str(error)) from error
    return reader


def _decode(content: bytes) -> str:
    """Decode bytes in the encoding that the page declares, or else UTF-8."""
    declared = re.search(
        rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([-\w]{1,40})""",
        content[:CHARSET_WITHIN],
        re.I,
    )
    charset = declared[1].decode() if declared else "utf-8"
    if charset == "utf-8":
        return verify.decode_utf8(content)
    try:
        # The HTML standard: Latin-1 and ASCII mean Windows' superset of them.
        latin = codecs.lookup(charset).name in ("iso8859-1", "ascii")
        return content.decode("cp1252" if latin else charset)
    except (LookupError, UnicodeError) as error:
        raise Unusable(
            "wrong encoding", f"the page says {charset}: {error}"
        ) from error


def _read_image(src: str, name: str, url: str, folder: ImageFolder) -> Image:
    if src[:5].lower() == "data:":
        return folder.read(src)
    try:
        src = urljoin(url, f"https:{src}" if src.startswith("//") else src)
        if is_url(src):
            return folder.read(src)
        path = unquote(urlsplit(src).path)
    except ValueError as error:  # http://[x, for example
        return raw_image(
            Unusable("broken image address", f"{src[:200]}: {error}")
        )
    if path.startswith("/"):
        path = path.lstrip("/")
    else:
        path = posixpath.join(posixpath.dirname(name), path)
    return replace(folder.read(path), url=src)
