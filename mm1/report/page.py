"""Self-contained HTML pages: nothing is loaded from elsewhere, so a page can be mailed,
archived and opened offline.

Text is escaped by construction: `Html` is markup, and `tag` escapes everything else. A
model's answer can be anything, `<script>` too.

Charts are inline SVG (`charts.py`) rather than matplotlib images, whose colours do not
follow dark mode, whose text does not reflow and which show no numbers on hover. They
would also make pages larger, and the demo would need a plotting library. The reports of
`mm1 report` draw long curves with one (`run_report/`).
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

from mm1.report.style import STYLE

NOTHING = "\N{EM DASH}"
"""Shown in place of an unknown number."""

THUMBNAIL = 160
"""Longer side of a thumbnail in pixels; smaller images are embedded as they are."""

ENLARGED = 72
"""Images whose longer side has fewer pixels are shown larger than they are."""


class Html(str):
    """Markup. Adding to it or formatting it gives plain text, which is escaped: a
    mistake is visible but harmless."""

    __slots__ = ()


Child = str | int | float | None


def tag(
    name: str, *children: Child, **attributes: str | int | float | None
) -> Html:
    """An element. `class_` becomes class and `stroke_width` stroke-width; attributes
    that are None are left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*children: Child) -> Html:
    """Children one after another; plain text among them is escaped."""
    return Html(
        "".join(
            c
            if isinstance(c, Html)
            else ""
            if c is None
            else html.escape(str(c))
            for c in children
        )
    )


def html_page(title: str, *children: Child, head: Html | None = None) -> str:
    """The whole document; `head` ends its head."""
    begin = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width,'
        ' initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>"
    )
    heads = join(Html(begin), head)
    body = tag("body", tag("main", *children))
    page = f'<html lang="en">\n<head>\n{heads}\n</head>\n{body}\n</html>'
    return f"<!DOCTYPE html>\n{page}\n"


def section(
    title: str, *children: Child, note: Child = None, anchor: str | None = None
) -> Html:
    return tag(
        "section",
        tag("h2", title),
        note and tag("p", note, class_="note"),
        *children,
        id=anchor,
    )


def card(*children: Child, title: str | None = None) -> Html:
    return tag("div", title and tag("h3", title), *children, class_="card")


def card_grid(*children: Child, tight: bool = False) -> Html:
    return tag("div", *children, class_="grid tight" if tight else "grid")


def missing(what: str) -> Html:
    """Says what is missing, in place of a section's content."""
    return tag("div", what, class_="card missing")


def badge(text: str, kind: str) -> Html:
    """`kind` is good, bad or plain."""
    return tag("span", text, class_=f"badge {kind}")


def key_figures(pairs: Iterable[tuple[Child, Child]]) -> Html:
    """Key figures: (the figure, what it counts)."""
    return tag(
        "div",
        *(card(tag("b", figure), tag("span", name)) for figure, name in pairs),
        class_="figures",
    )


def table(
    head: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    numbers: Iterable[int] = (),
) -> Html:
    """`numbers` are the right-aligned columns. Wide tables scroll inside their card."""
    kind = dict.fromkeys(numbers, "number")

    def line(cells: Sequence[Child], element: str) -> Html:
        return tag(
            "tr",
            *(
                tag(element, cell, class_=kind.get(i))
                for i, cell in enumerate(cells)
            ),
        )

    body = tag("tbody", *(line(row, "td") for row in rows))
    return tag(
        "div",
        tag(
            "div",
            tag("table", tag("thead", line(head, "th")), body),
            class_="scroll",
        ),
        class_="card",
    )


def thumbnail(data: bytes | None, name: str) -> Html:
    """An image as a data URI, scaled down if it is large; a note if it cannot be
    read."""
    found = _scaled(data, THUMBNAIL)
    if found is None:
        return tag(
            "span", "picture cannot be read", class_="thumb lost", title=name
        )
    source, longest = found
    # Tiny images are enlarged without smoothing, to show how little the model sees.
    look = "thumb small" if longest < ENLARGED else "thumb"
    return Html(
        f'<img class="{look}" src="{source}" alt="{html.escape(name)}"'
        f' title="{html.escape(name)}">'
    )


def thumbnail_file(data: bytes) -> tuple[bytes, str, bool]:
    """An image as the content of a file and its suffix, and whether it is so small that
    it is enlarged; that is kept to the pixel, others are compressed.

    Raises:
        OSError: it cannot be read.
    """
    with Image.open(io.BytesIO(data)) as picture:
        small = max(picture.size) < ENLARGED
        kind = "png" if small else "webp"
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        file = io.BytesIO()
        picture.convert("RGB").save(file, kind, quality=80)
    return file.getvalue(), kind, small


def data_url(data: bytes | None, longest: int) -> str | None:
    """An image as a data URI, scaled down to `longest` pixels; None if it cannot be
    read."""
    found = _scaled(data, longest)
    return found and found[0]


def _scaled(data: bytes | None, most: int) -> tuple[str, int] | None:
    """A data URI, and the image's longer side as it was."""
    try:
        if data is None:
            return None
        with Image.open(io.BytesIO(data)) as picture:
            longest = max(picture.size)
            kind = Image.MIME[picture.format or ""]
            if longest > most:
                picture.thumbnail((most, most))
                smaller = io.BytesIO()
                picture.convert("RGB").save(smaller, "JPEG", quality=85)
                data = smaller.getvalue()
                kind = "image/jpeg"
    except (
        OSError,
        KeyError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ):
        return None
    return f"data:{kind};base64,{base64.b64encode(data).decode()}", longest


def count(value: int | float) -> str:
    """At most four digits: 950, 12.3k, 1.24M, 30.1B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: int | float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
