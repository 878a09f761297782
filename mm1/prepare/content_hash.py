"""Hashes of what a document says and shows: they decide its split and which documents
are copies.

Words are compared without case, punctuation and white space, images byte for byte.
"""

import hashlib
import re
import unicodedata
from typing import Literal

from mm1.data.document import Document, Image, Text

ValidationBy = Literal["text", "image"]

UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf\uaa80-\uaadf"  # Tai
    "\u1b00-\u1b7f\ua980-\ua9df"  # Balinese, Javanese
    "\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # kana, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
    "\ua000-\ua4cf"  # Yi
)
"""Characters of scripts that put no spaces between words."""

UNIT = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def normalized_words(document: Document) -> str:
    """All its text in lower case, words separated by one space; the text itself if it
    has no words."""
    text = "\0".join(
        part.content for part in document.parts if isinstance(part, Text)
    )
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", " ", folded).strip() or text


def words_or_characters(document: Document) -> list[str]:
    """Its normalized words, and the single characters of scripts that put no spaces
    between them: what n-grams are made of."""
    return UNIT.findall(normalized_words(document))


def hash64(data: bytes) -> int:
    """64 bits: the odds that any two of a billion different inputs collide are 3%."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def image_hash(image: Image) -> int:
    return hash64(image.data)


def document_hash(document: Document) -> int:
    """The hash of its words and its images, in their order."""
    images = b"".join(
        image_hash(image).to_bytes(8) for image in document.images
    )
    return hash64(images + normalized_words(document).encode())


def is_validation(
    document: Document, share: float, by: ValidationBy = "text"
) -> bool:
    """Whether a document belongs to the validation split, by a hash of its content.

    With `text`, copies of a text stay together; with `image`, documents with the same
    first image.
    """
    if by == "image" and document.images:
        return image_hash(document.images[0]) < share * 2**64
    return hash64(normalized_words(document).encode()) < share * 2**64
