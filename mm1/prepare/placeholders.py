"""What stands for an image in the text of a conversation, in the spellings of public
data:

    <image>  <Image>  <ImageHere>  <image_placeholder>  [IMG]  <|image|>  <IMG_CONTEXT>
    <image 1>  <image_1>  <|image_1|>  [IMG0]              the record's first image
    <img>a.jpg</img>  <img src="a.jpg">  ![](a.jpg)          an image of its own

with or without marks around them, such as `<|vision_start|>` and `<|vision_end|>`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mm1.prepare.sources import Unusable

IMAGE_PLACEHOLDER = "<image>"


@dataclass(frozen=True, slots=True)
class Placeholder:
    """The place of an image: of the next one, unless it says of which."""

    number: int | None = None
    """Which of the record's images, as it is written."""
    value: Any = None
    """The image itself: bytes, a path, a data URI, `{"bytes", "path"}`."""


_IMAGE = "(?:image|img|picture)"
_NAME = (
    rf"{_IMAGE}(?:[ _-]?(?:here|token|pad|placeholder|patch|context|content|embed"
    r"|soft[ _]token))?(?:[ _:#-]{0,2}\d{1,4})?"
)
_PLACE = (
    rf"\(<{_IMAGE}>\./</{_IMAGE}>\)"
    rf"|<(?P<tag>{_IMAGE})>(?P<path>[^<>\n]{{0,4096}})</(?P=tag)>"
    r"|\[img\](?P<code>[^\[\]\n]{0,4096})\[/img\]"
    r"|<img\b[^<>]{0,400}?\ssrc\s*=\s*[\"']?(?P<source>[^\"'<>\s]+)[^<>]{0,400}>"
    r"|!\[[^\[\]\n]{0,400}\]\((?P<link>[^()\s]+)\)"
    rf"|<{_IMAGE}>\s*<\|?{_NAME}\|?>\s*</{_IMAGE}>"
    rf"|<\|?{_NAME}\|?>"
    r"|(?-i:\[(?:IMG|IMAGE)\d{0,4}\])(?!\()"
    # Not data[image], nor a link.
    rf"|(?<![\w)])\[{_NAME}\](?!\()"
)
_AROUND = r"im|img|image|vision|vis"
_BEGIN = (
    rf"<\|?(?:(?:{_AROUND})_?(?:start|begin)|(?:begin|start)_of_image|boi"
    r"|fake_token_around_image)\|?>"
)
_END = (
    rf"<\|?(?:(?:{_AROUND})_?end|end_of_image|eoi|fake_token_around_image)\|?>"
)
_PLACES = re.compile(
    rf"(?:{_BEGIN}\s*)?(?:{_PLACE})(?:\s*{_END})?"
    r"|<\|?(?:begin|start)_of_image\|?>|<__(?:media|image)__>",
    re.I,
)
_OTHER_NAME = (
    r"(?:video|vid|audio|speech|sound|voice|music|point[ _]?cloud)(?:[ _-]?"
    r"(?:here|token|pad|placeholder|start|bos))?(?:[ _:#-]{0,2}\d{1,4})?"
)
_OTHER_MEDIA = re.compile(
    rf"<\|?{_OTHER_NAME}\|?>|(?<![\w)])\[{_OTHER_NAME}\](?!\()", re.I
)


def split_at_placeholders(
    text: str, only: str = ""
) -> Iterator[str | Placeholder]:
    """The pieces of a text and the placeholders between them; pieces may be empty.

    `only`: the one spelling of a placeholder; all else is text then.

    Raises:
        Unusable: the text has a place for a video or for audio.
    """
    if only:
        first, *others = text.split(only)
        yield first
        for piece in others:
            yield Placeholder()
            yield piece
        return
    if other := _OTHER_MEDIA.search(text):
        raise Unusable("not an image", f"{other[0]} in a text")
    at = 0
    for place in _PLACES.finditer(text):
        yield text[at : place.start()]
        yield _placeholder(place)
        at = place.end()
    yield text[at:]


def _placeholder(place: re.Match[str]) -> Placeholder:
    names = (place[group] for group in ("path", "code", "source", "link"))
    path = next((name.strip() for name in names if name), "")
    if path not in ("", "."):
        return Placeholder(value=path)
    number = re.search(r"\d+", place[0])
    return Placeholder(number=int(number[0]) if number else None)
