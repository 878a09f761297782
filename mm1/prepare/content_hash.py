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


def normalized_words(document: Document) -> str:
    """All its text in lower case, words separated by one space; the text itself if it
    has no words."""
    text = "\0".join(
        part.content for part in document.parts if isinstance(part, Text)
    )
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", " ", folded).strip() or text


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
