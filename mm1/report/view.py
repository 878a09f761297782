"""Packed rows as a page to read: `mm1 view` shows what a run or a recipe trains on.

Images lie in a folder beside the page, NAME_files, each once, and are loaded when they
are scrolled to: rows hold dozens of them.

ViewRow                     a row of the loader
  ViewDocument              a document in it, or a piece of one cut at the row's end
    ViewText | ViewImage    text with or without loss; the sub-images of one image
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from mm1.report.bars import BarSegment, bar, bars
from mm1.report.charts import legend, tones
from mm1.report.page import (
    Html,
    card,
    html_page,
    join,
    key_figures,
    plural,
    section,
    tag,
    thumbnail_file,
)

MAX_BRIEF = 160
"""Characters of a document that takes a third or a quarter of a line; an image counts
as half as many."""
IMAGE_FILE = re.compile(r"[0-9a-f]{16}\.(png|webp)")


@dataclass(frozen=True, slots=True)
class ViewText:
    """Decoded text whose tokens all carry loss, or none of them."""

    text: str
    loss: bool


@dataclass(frozen=True, slots=True)
class ViewImage:
    """PNGs of the whole image and of its sub-images, resized to the model's input."""

    sub_images: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ViewDocument:
    """Tokens `start` to `stop` of a document of `length` tokens."""

    source: str
    key: str
    pieces: tuple[ViewText | ViewImage, ...]
    start: int
    stop: int
    length: int
    num_targets: int
    """Tokens that carry loss."""

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start

    @property
    def num_images(self) -> int:
        """Including sub-images, as `max_images` counts them."""
        return sum(
            len(piece.sub_images)
            for piece in self.pieces
            if isinstance(piece, ViewImage)
        )


@dataclass(frozen=True, slots=True)
class ViewRow:
    """Documents one after another; the rest of `sequence_length` tokens is padding."""

    documents: tuple[ViewDocument, ...]
    sequence_length: int
    max_images: int

    @property
    def num_tokens(self) -> int:
        return sum(document.num_tokens for document in self.documents)

    @property
    def num_images(self) -> int:
        return sum(document.num_images for document in self.documents)

    @property
    def num_targets(self) -> int:
        return sum(document.num_targets for document in self.documents)


class _Images:
    """The folder of a page's images."""

    def __init__(self, out: Path) -> None:
        self.folder = out.with_name(f"{out.stem}_files")
        self.written: set[str] = set()

    def add(self, image: bytes, name: str) -> Html:
        """Writes an image where it is not there yet; returns its element."""
        data, kind, small = thumbnail_file(image)
        file = f"{hashlib.blake2b(data, digest_size=8).hexdigest()}.{kind}"
        if file not in self.written:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / file).write_bytes(data)
            self.written.add(file)
        return Html(
            f'<img class="{"thumb small" if small else "thumb"}" loading="lazy"'
            f' src="{quote(self.folder.name)}/{file}" alt="{name}" title="{name}">'
        )

    def delete_others(self) -> None:
        """Those of an earlier page of this name."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if IMAGE_FILE.fullmatch(path.name) and (
                path.name not in self.written
            ):
                path.unlink()


def write_view(
    rows: Sequence[ViewRow],
    out: Path,
    *,
    title: str,
    why_not_full: Sequence[str] = (),
) -> None:
    """Writes the page; `title` names the run or recipe of the rows.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no rows to show")
    sources = list(
        dict.fromkeys(
            document.source for row in rows for document in row.documents
        )
    )
    tone = tones(sources)
    lead = (
        "Rows as the model is trained on them. Documents of a row never see one"
        " another."
    )
    header = tag(
        "header",
        tag("h1", title),
        tag("p", lead, class_="lead"),
        _figures(rows),
    )
    overview = section(
        "All rows",
        card(_overview(rows, tone), _legend(tone)),
        note="A number leads to its row; at the right, its images.",
    )
    images = _Images(out)
    parts = [
        _row(number, row, tone, images) for number, row in enumerate(rows, 1)
    ]
    out.write_text(
        html_page(title, header, overview, _reasons(why_not_full), *parts),
        encoding="utf-8",
    )
    images.delete_others()


def _reasons(why_not_full: Sequence[str]) -> Html | None:
    if not why_not_full:
        return None
    first, *others = why_not_full
    listed = tag("ul", *(tag("li", each) for each in others))
    return section("Why rows are not full", tag("p", first), listed)


def _figures(rows: Sequence[ViewRow]) -> Html:
    slots = sum(row.sequence_length for row in rows)
    tokens = sum(row.num_tokens for row in rows)
    documents = sum(len(row.documents) for row in rows)
    images = sum(row.num_images for row in rows)
    pairs = [
        (f"{len(rows)}", f"rows of {rows[0].sequence_length} tokens"),
        (f"{tokens / slots:.1%}", "of the slots filled"),
        (
            f"{sum(row.num_targets for row in rows) / max(1, tokens):.1%}",
            "of the tokens carry loss",
        ),
        (f"{images / len(rows):.1f}", f"images a row, of {rows[0].max_images}"),
        (f"{documents / len(rows):.1f}", "documents a row"),
    ]
    return key_figures(pairs)


def _overview(rows: Sequence[ViewRow], tone: dict[str, str]) -> Html:
    lines = [
        (
            tag("a", f"{number}", href=f"#row-{number}"),
            _pieces(row, tone),
            f"{row.num_images}",
        )
        for number, row in enumerate(rows, 1)
    ]
    return bars(lines, thin=True)


def _legend(tone: dict[str, str]) -> Html:
    keys = [
        *((name, colour, "block") for name, colour in tone.items()),
        ("padding", "tone-0", "pad"),
    ]
    marked = tag("span", "Marked text", class_="learnt")
    return join(
        legend(keys),
        tag("p", marked, " carries loss; the rest is only read.", class_="key"),
    )


def _pieces(row: ViewRow, tone: dict[str, str]) -> list[BarSegment]:
    pieces = []
    for i, document in enumerate(row.documents):
        hover = (
            f"{document.source}: {document.num_tokens} tokens,"
            f" {plural(document.num_images, 'image')}"
        )
        share = document.num_tokens / row.sequence_length
        pieces.append(
            BarSegment(share, tone[document.source], hover, light=i % 2 == 1)
        )
    padding = row.sequence_length - row.num_tokens
    if padding:
        pieces.append(
            BarSegment(
                padding / row.sequence_length,
                "tone-0",
                f"padding: {padding} tokens",
                padding=True,
            )
        )
    return pieces


def _row(
    number: int, row: ViewRow, tone: dict[str, str], images: _Images
) -> Html:
    padding = row.sequence_length - row.num_tokens
    facts = (
        f"{row.num_tokens} of {row.sequence_length} tokens"
        f" ({row.num_tokens / row.sequence_length:.1%}), {row.num_targets} with loss,"
        f" {row.num_images} of {row.max_images} images,"
        f" {plural(len(row.documents), 'document')}"
    )
    header = tag(
        "header", tag("h2", f"Row {number}"), tag("span", facts, class_="note")
    )
    shown = [
        _document(document, tone[document.source], images)
        for document in row.documents
    ]
    if padding:
        shown.append(
            tag(
                "div", f"{padding} tokens of padding", class_="document padding"
            )
        )
    return tag(
        "section",
        header,
        bar(_pieces(row, tone)),
        tag("div", *shown, class_="documents"),
        class_="row",
        id=f"row-{number}",
    )


def _document(document: ViewDocument, colour: str, images: _Images) -> Html:
    cut = document.num_tokens < document.length
    span = (
        f"tokens {document.start} to {document.stop} of {document.length}"
        if cut
        else f"{document.length} tokens"
    )
    facts = (
        f"{span}, {document.num_targets} with loss,"
        f" {plural(document.num_images, 'image')}"
    )
    head = tag(
        "small",
        tag("b", document.source),
        tag("span", facts),
        tag("span", document.key),
    )
    body = tag(
        "div",
        *(
            _piece(piece, number, images)
            for number, piece in enumerate(document.pieces, 1)
        ),
    )
    look = f"card document {colour} {_width(document)}".strip()
    return tag("article", head, body, class_=look)


def _width(document: ViewDocument) -> str:
    """Captions and what is as short stand several in a line; the class of that."""
    texts = [p.text for p in document.pieces if isinstance(p, ViewText)]
    length = sum(map(len, texts)) + MAX_BRIEF // 2 * document.num_images
    if length <= MAX_BRIEF:
        return "brief"
    return "brief several" if length <= 2 * MAX_BRIEF else ""


def _piece(piece: ViewText | ViewImage, number: int, images: _Images) -> Html:
    if isinstance(piece, ViewText):
        return tag(
            "span", piece.text, class_="learnt" if piece.loss else "unlearnt"
        )
    thumbnails = (
        images.add(image, f"part {number}, view {i}")
        for i, image in enumerate(piece.sub_images, 1)
    )
    return tag("span", *thumbnails, class_="views")
