"""Checks of text and images, made once at prepare time, so that no training run meets a
bad one.

Images are decoded in full, not only opened: a file that is truncated behind its header
is detected here. The number of pixels is limited to `image_decoding.MAX_PIXELS`,
checked from the header before memory is allocated.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageError, decode_image, image_size
from mm1.prepare.sources import MissingImage, Unusable

MAX_BYTES = 1 << 28
"""256 MiB: the largest image file or archive member that is read into memory."""

MAX_LINE = 1 << 26
"""64 MiB: the longest line of a text file, in bytes or, of CSV, in characters. Parsed,
a line takes several times its size."""

ImageCheck = Callable[[Image], Image]
"""Returns the image, possibly with its size filled in, or raises `Unusable`."""

PARAGRAPH = "\n\n"
"""Separates two texts of a page that have nothing between them."""


def decode_utf8(data: bytes) -> str:
    """Strict UTF-8, with or without a byte-order mark; raises `Unusable`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable(
            "not UTF-8", f"byte {error.start} is {data[error.start]:#04x}"
        ) from error


def check_text(value: Any, what: str) -> str:
    """Return `value` if it can be trained on; `what` names it in the reason.

    Raises:
        Unusable: not a string, only white space, or with NUL characters or characters
            that UTF-8 cannot encode (half a surrogate pair).
    """
    if not isinstance(value, str):
        raise Unusable(
            f"no {what}",
            ""
            if value is None
            else f"it is a {type(value).__name__}, not a text",
        )
    if not value.strip():
        raise Unusable(f"empty {what}")
    if "\0" in value:
        raise Unusable(
            "NUL in text", f"character {value.index(chr(0))} of the {what}"
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unusable(
            "not UTF-8", f"character {error.start} of the {what}"
        ) from error
    return value


def check_image(image: Image) -> Image:
    """Decode an image and return it with its width and height after EXIF rotation.

    Raises:
        Unusable: the bytes are not an image, a damaged one, or one of more than
            `image_decoding.MAX_PIXELS` pixels; or the image is missing.
    """
    if isinstance(image, MissingImage):
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
    # Decoders raise all kinds of errors on untrusted bytes; each costs one record.
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


def check_document(
    document: Document,
    *,
    images_required: bool,
    check: ImageCheck = check_image,
) -> tuple[Document, list[Unusable]]:
    """The document with its images checked, and why some of them were left out.

    The texts on both sides of a missing image are joined as paragraphs. `check` is
    called for each image; filters pass a stricter one than `check_image`.

    Raises:
        Unusable: an image is unusable and `images_required`, or there is no text to
            learn from.
    """
    parts: list[Text | Image] = []
    lost: list[Unusable] = []
    gap = False
    for part in document.parts:
        if isinstance(part, Text):
            if part.content.strip():
                check_text(part.content, "text")
            after_gap = gap and parts and isinstance(parts[-1], Text)
            parts.append(
                replace(part, content=PARAGRAPH + part.content)
                if after_gap
                else part
            )
            gap = False
            continue
        try:
            parts.append(check(part))
        except Unusable as why:
            if images_required:
                raise
            number = len(lost) + sum(isinstance(p, Image) for p in parts) + 1
            gap = True
            detail = f"image {number}: {why.detail}".removesuffix(": ")
            lost.append(Unusable(why.reason, detail))
    if not any(
        isinstance(part, Text) and part.loss and part.content.strip()
        for part in parts
    ):
        raise Unusable("no text")
    return replace(document, parts=tuple(parts)), lost
