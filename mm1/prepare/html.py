"""HTML -> text and images in reading order.

One pass from left to right without backtracking, so that time is linear in the length
of a page whatever it holds. (The `html.parser` of Python 3.11.7 takes 102 s for 60 kB
of `<a <a <a`: one page of a crawl would hold up the rest.)

A tag, comment or script that is never closed ends with the page, as in a browser.
"""

import re
from collections import Counter
from dataclasses import dataclass
from html import unescape

TAG = re.compile(
    r"""<(/?)([a-zA-Z][^\s/>]*+)((?:[^>=]++|=\s*+(?:"[^"]*+"|'[^']*+')|=)*+)>"""
)
ATTRIBUTE = re.compile(
    r"""([^\s=>"'/]++)(?:\s*+=\s*+("[^"]*+"|'[^']*+'|[^\s"'>]++))?+"""
)
RAW = (
    "script",
    "style",
    "textarea",
    "title",
    "xmp",
    "iframe",
    "noembed",
    "noframes",
)
"""Their content is not HTML, and is dropped."""
DROPPED = re.compile(
    "aside|audio|button|canvas|footer|form|head|math|nav|noscript|object|select|svg|"
    "template|video"
)
MEDIA = re.compile("audio|canvas|embed|iframe|object|svg|video")
"""Of these and of what is dropped, what a page shows besides its text is counted."""
BLOCK = re.compile(
    "address|article|blockquote|body|caption|center|dd|details|div|dl|dt|fieldset|"
    "figcaption|figure|h[1-6]|header|hr|html|li|main|menu|ol|p|pre|section|summary|"
    "table|tbody|tfoot|thead|tr|ul"
)
GAPS = ("", " ", "\n", "\n\n")
"""What may separate two pieces of text; of several, the last in this list is used."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The place of an `<img>` on a page."""

    src: str


class HtmlReader:
    """Reads one page."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        """Pictures, films and sounds that are not read: what they are -> how many."""
        self.parts: list[str | ImageSource] = []
        self.pieces: list[str] = []
        """Pieces of the text since the last image."""
        self.gap = ""
        """White space before the next piece."""
        self.dropped = ""
        """The open element whose content is dropped."""
        self.depth = 0
        """How many elements of that name are open."""
        self.verbatim = 0
        """How many `<pre>` are open."""

    def read(self, html: str) -> list[str | ImageSource]:
        """Texts, with white space as a browser shows it, and images in their places.

        Raises:
            ValueError: a character reference of thousands of digits.
        """
        at = 0
        while 0 <= at < len(html):
            start = html.find("<", at)
            self._text(html[at:start] if start >= 0 else html[at:])
            at = self._markup(html, start) if start >= 0 else len(html)
        self._end_text()
        return self.parts

    def _markup(self, html: str, start: int) -> int:
        """Handle the markup at `start`; return where it ends, -1 if it never does."""
        if html.startswith("<!--", start):
            return _after(html, "-->", start + 4)
        if html.startswith(("<!", "<?"), start):
            return _after(html, ">", start)
        if not html[start + 1 : start + 3].lstrip("/")[:1].isalpha():
            self._text("<")
            return start + 1
        tag = TAG.match(html, start)
        if tag is None:
            return -1
        name = tag[2].lower()
        self._tag(name, tag[1] == "/", tag[3])
        if name in RAW and not tag[1]:
            end = re.compile(rf"</{name}[\s/>]", re.IGNORECASE).search(
                html, tag.end()
            )
            return end.start() if end else -1
        return tag.end()

    def _tag(self, name: str, closes: bool, attributes: str) -> None:
        if DROPPED.fullmatch(name) and attributes.endswith("/"):
            return
        if MEDIA.fullmatch(name) and not closes and not self.dropped:
            self.left_out[f"{name} element"] += 1
        if self.dropped or (DROPPED.fullmatch(name) and not closes):
            self.dropped = self.dropped or name
            if name == self.dropped:
                self.depth += -1 if closes else 1
                self.dropped = self.dropped if self.depth else ""
            return
        if name == "pre":
            self.verbatim = max(0, self.verbatim + (-1 if closes else 1))
        if name == "img" and not closes:
            self._image(attributes)
        elif name == "br":
            self._separate("\n")
        elif BLOCK.fullmatch(name):
            self._separate("\n\n")
        elif name in ("td", "th"):
            self._separate(" ")

    def _image(self, attributes: str) -> None:
        values = {
            m[1].lower(): unescape(m[2] or "").strip("\"' \n\t")
            for m in ATTRIBUTE.finditer(attributes)
        }
        first = values.get("srcset", "").split(",")[0].split()
        # Pages that load images lazily have a placeholder in src.
        src = values.get("data-src") or values.get("src") or " ".join(first[:1])
        if src:
            self._end_text()
            self.parts.append(ImageSource(src))
        else:
            self.left_out["img without an address"] += 1

    def _separate(self, gap: str) -> None:
        self.gap = max(self.gap, gap, key=GAPS.index)

    def _text(self, text: str) -> None:
        if self.dropped:
            return
        text = unescape(text)
        if not self.verbatim:
            if text[:1].isspace():
                self._separate(" ")
            ends_in_space = text[-1:].isspace()
            text = " ".join(text.split())
        else:
            ends_in_space = False
        if not text:
            return
        self.pieces += [self.gap, text] if self.pieces else [text]
        self.gap = " " if ends_in_space else ""

    def _end_text(self) -> None:
        if self.pieces:
            self.parts.append("".join(self.pieces))
        self.pieces = []
        self.gap = ""


def _after(html: str, end: str, start: int) -> int:
    """The position after the next `end`; -1 if there is none."""
    at = html.find(end, start)
    return at + len(end) if at >= 0 else -1
