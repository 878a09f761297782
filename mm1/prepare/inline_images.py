"""Images that stand in a text field themselves: data URIs, and base64 without one."""

import base64
import binascii
import re
from urllib.parse import unquote

from mm1.prepare import verify
from mm1.prepare.sources import Unusable

_FIRST_CHARACTERS = (
    "/9j/",
    "iVBORw0KGgo",
    "R0lGOD",
    "UklGR",
    "Qk",
    "SUkq",
    "TU0A",
    "AAAA",
)
"""JPEG, PNG, GIF, WebP, BMP, TIFF of both byte orders and AVIF as base64."""
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{32,}={0,2}\s*")
SHORTEST = 64
"""Characters; no image is shorter, but many a path is."""


def is_inline_image(value: str) -> bool:
    """Whether a string is an image rather than the name of one."""
    if value[:5].lower() == "data:":
        return True
    return (
        len(value) >= SHORTEST
        and value.startswith(_FIRST_CHARACTERS)
        and _BASE64.fullmatch(value) is not None
    )


def decode_inline_image(value: str) -> bytes:
    """The bytes of such an image.

    Raises:
        Unusable: it is damaged, or a data URI that is not base64 or no image.
    """
    content = value
    if value[:5].lower() == "data:":
        head, comma, content = value.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise Unusable("broken image address", value[:100])
        kind = head[5:].split(";")[0].strip().lower()
        if kind.startswith(("video/", "audio/", "text/")):
            raise Unusable("not an image", f"a data URI of {kind}")
        content = unquote(content)
    if len(content) > verify.MAX_BYTES:
        raise Unusable(
            "file too large", f"{len(content):,} characters of base64"
        )
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Unusable("unreadable image", f"broken base64: {error}") from error
