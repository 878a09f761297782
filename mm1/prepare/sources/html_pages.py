"""Web pages: text and `<img>` in reading order, as MM1 made its own interleaved set
(arXiv 2403.09611, appendix A).

A folder is read at any depth: `.html` and `.htm` files, a page each, and tables of
pages (parquet, JSON lines) with a column `html`. Navigation, forms, scripts, styles and
the like are dropped (`mm1.prepare.html`), titles and alternative texts too.

    <h1>Our trip</h1> <p>To the lake. <img src="img/lake.jpg"> It was cold.

Pictures are read from a folder, by default the one that is read: `img/lake.jpg` of
`a/b.html` is `a/img/lake.jpg`, `/lake.jpg` is `lake.jpg`. A row's `src` is made whole
by its column `url`, if that is named, and looked up as `urls` says. A picture that
cannot be had is left out of its page and counted.
"""

import base64
import binascii
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
from mm1.prepare.html import Page, Src
from mm1.prepare.image_folder import ImageFolder, is_url
from mm1.prepare.sources import DOT, Record, Source, Unusable, found
from mm1.prepare.sources.interleaved import page
from mm1.prepare.sources.text_files import file_bytes

CHARSET_WITHIN = 1024
"""Bytes from the beginning in which a page says its encoding, as the HTML standard has
it."""


class HtmlPages(Source):
    """Text and pictures of a page in reading order."""

    EXAMPLE = {
        "html": "<h1>Our trip</h1> <p>To the lake. <img src='lake.png'> Cold!",
        "pictures": {"lake.png": DOT},
    }
    PATTERNS = ("*.html", "*.htm", "*.parquet", "*.jsonl", "*.jsonl.gz", "*.jsonl.zst")
    READS_FOLDERS = True
    PICTURES_MATTER = False

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        html: str = "html"
        """The column of a table that holds the page."""
        url: str = ""
        """The column with the page's address, which relative addresses of pictures
        begin with; empty: there is none."""
        folder: str = ""
        """Where pictures lie; empty: in the folder that is read."""
        urls: str = ""
        """How pictures of URLs are called there: sha256, basename, or a table; empty:
        they are not looked for."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        root = path if path.is_dir() else path.parent
        pictures = ImageFolder(Path(self.config.folder or root), self.config.urls)
        for file in self.files_in(path) if path.is_dir() else [path]:
            name = file.relative_to(root).as_posix()
            if tables.kind(file) in tables.ENDINGS:
                columns = [
                    self.config.html,
                    *([self.config.url] if self.config.url else []),
                ]
                for record in tables.rows(file, columns):
                    key = record.key if file == path else f"{name}#{record.key}"
                    yield Record(key, self._with_pictures(record.data, "", pictures))
            else:
                content = file_bytes(file) if path.is_dir() else path.read_bytes()
                yield Record(
                    name,
                    self._with_pictures({self.config.html: content}, name, pictures),
                )

    def _with_pictures(self, data: Any, name: str, pictures: ImageFolder) -> Any:
        """The page as `document` takes it; `name` is that of its file in its folder."""
        if isinstance(data, Unusable):
            return data
        html = data.get(self.config.html)
        if isinstance(html, Unusable):
            return html
        try:
            html = _decoded(html) if isinstance(html, bytes) else html
            sources = {part.src for part in _parts(html) if isinstance(part, Src)}
        except Unusable as why:
            return why
        url = data.get(self.config.url)
        found = {
            src: _picture(src, name, url if isinstance(url, str) else "", pictures)
            for src in sources
        }
        return {"html": html, "pictures": found}

    def document(self, data: Any) -> Document:
        parts = _parts(data["html"])
        images = [
            data["pictures"][part.src] if isinstance(part, Src) else None
            for part in parts
        ]
        return page(images, [part if isinstance(part, str) else None for part in parts])


def _parts(html: Any) -> list[str | Src]:
    try:
        return Page().read(verify.text(html, "html"))
    except Unusable:
        raise
    except ValueError as error:
        raise Unusable("broken HTML", str(error)) from error


def _decoded(content: bytes) -> str:
    """Text of bytes in the encoding that the page names, or UTF-8."""
    said = re.search(
        rb"""<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}["']?([-\w]{1,40})""",
        content[:CHARSET_WITHIN],
        re.I,
    )
    charset = said[1].decode() if said else "utf-8"
    try:
        # The HTML standard: pages that say Latin-1 or ASCII mean Windows' superset of
        # it.
        latin = codecs.lookup(charset).name in ("iso8859-1", "ascii")
        return (
            content.decode("cp1252" if latin else charset)
            if charset != "utf-8"
            else verify.utf8(content)
        )
    except (LookupError, UnicodeError) as error:
        raise Unusable("wrong encoding", f"the page says {charset}: {error}") from error


def _picture(src: str, name: str, url: str, pictures: ImageFolder) -> Image:
    if src[:5].lower() == "data:":
        return found(_inline(src))
    try:
        src = urljoin(url, f"https:{src}" if src.startswith("//") else src)
        if is_url(src):
            return pictures.read(src)
        path = unquote(urlsplit(src).path)
    except ValueError as error:  # as http://[x
        return found(Unusable("broken image address", f"{src[:200]}: {error}"))
    path = (
        path.lstrip("/")
        if path.startswith("/")
        else posixpath.join(posixpath.dirname(name), path)
    )
    return replace(pictures.read(path), url=src)


def _inline(src: str) -> bytes | Unusable:
    """The bytes of a `data:` URL."""
    head, comma, content = src.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        return Unusable("broken image address", src[:100])
    try:
        return base64.b64decode("".join(unquote(content).split()), validate=True)
    except (binascii.Error, ValueError) as error:
        return Unusable("broken image address", f"{src[:100]}: {error}")
