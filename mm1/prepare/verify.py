"""Is this text? Is this a picture? Asked once of every record, at prepare time, so that
no run meets a bad one.

Pictures are decoded in full, not only opened: a file that breaks off behind its header
is found here. The most pixels a picture may have is `image_processing.MAX_PIXELS`, checked from
the header before memory is taken for them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageError, decode_image, image_size
from mm1.prepare.sources import Lost, Unusable

MAX_BYTES = 1 << 28
"""256 MiB: the largest picture file, line or archive member that is read into
memory."""

Look = Callable[[Image], Image]
"""Gives a picture back, as it is or better known, or raises `Unusable`."""

PARAGRAPH = "\n\n"
"""Between two texts of a page that nothing else parts."""


def utf8(data: bytes) -> str:
    """Strict UTF-8, with or without a byte-order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(
            "not UTF-8", f"byte {error.start} is {data[error.start]:#04x}"
        ) from error


def text(value: Any, what: str) -> str:
    """`value` as a text that can be learnt from; `what` names it in the reason ("empty
    caption").

    Raises:
        Unusable: no string, nothing but white space, NUL characters, or what UTF-8
            cannot say (half a surrogate pair).
    """
    if not isinstance(value, str):
        raise Unusable(
            f"no {what}",
            "" if value is None else f"it is a {type(value).__name__}, not a text",
        )
    if not value.strip():
        raise Unusable(f"empty {what}")
    if "\0" in value:
        raise Unusable("NUL in text", f"character {value.index(chr(0))} of the {what}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable("not UTF-8", f"character {error.start} of the {what}") from error
    return value


def picture(image: Image) -> Image:
    """The same picture, decoded once to be sure of it, with its width and height as a
    person sees it.

    Raises:
        Unusable: the bytes are no picture, a damaged one, or one of more than
            `image_processing.MAX_PIXELS` pixels; or it could not be had in the first place.
    """
    if isinstance(image, Lost):
        raise image.why
    data = image.data
    if not data:
        raise Unusable("empty image")
    if data[:8].lower().startswith((b"http://", b"https://")):
        raise Unusable("image is a URL", data[:200].decode("utf-8", "replace"))
    try:
        width, height = image_size(data)
        pixels = decode_image(data)
    except ImageError as error:
        raise Unusable("unreadable image", str(error)) from error
    # decoders meet bytes of strangers and raise anything; the record is named, none is
    # lost
    except Exception as error:
        raise Unusable(
            "unreadable image", f"{type(error).__name__}: {error}"
        ) from error
    if (height, width) != tuple(pixels.shape[1:]):
        raise Unusable(
            "unreadable image",
            f"header says {width} x {height}, pixels {tuple(pixels.shape[1:])}",
        )
    return replace(image, width=width, height=height)


def document(
    found: Document, *, pictures_matter: bool, look: Look = picture
) -> tuple[Document, list[Unusable]]:
    """The document with its pictures verified, and why some of them are left out (the
    texts beside one are joined).

    `look` gives each picture back, or raises `Unusable`: filters ask more of it than
    `picture` does.

    Raises:
        Unusable: a picture cannot be read and `pictures_matter`, or nothing is left to
            learn from.
    """
    parts: list[Text | Image] = []
    lost: list[Unusable] = []
    gap = False
    for part in found.parts:
        if isinstance(part, Text):
            if part.content.strip():
                text(part.content, "text")
            after_loss = gap and parts and isinstance(parts[-1], Text)
            parts.append(
                replace(part, content=PARAGRAPH + part.content) if after_loss else part
            )
            gap = False
            continue
        try:
            parts.append(look(part))
        except Unusable as why:
            if pictures_matter:
                raise
            number = len(lost) + sum(isinstance(p, Image) for p in parts) + 1
            gap = True
            lost.append(
                Unusable(
                    why.reason, f"picture {number}: {why.detail}".removesuffix(": ")
                )
            )
    if not any(
        isinstance(part, Text) and part.loss and part.content.strip() for part in parts
    ):
        raise Unusable("no text")
    return replace(found, parts=tuple(parts)), lost
