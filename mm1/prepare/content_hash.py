"""What a document says and shows, as hashes: which side of the held-out split it falls
on, and what is a copy of what.

Words are compared without case, punctuation and white space, pictures byte for byte.
"""

import hashlib
import re
import unicodedata
from typing import Literal

from mm1.data.document import Document, Image, Text

ValidationBy = Literal["text", "image"]


def words(document: Document) -> str:
    """All its text in small letters, words parted by one blank; the text as it is where
    there are no words in it."""
    written = "\0".join(
        part.content for part in document.parts if isinstance(part, Text)
    )
    return (
        re.sub(
            r"[\W_]+", " ", unicodedata.normalize("NFKC", written).casefold()
        ).strip()
        or written
    )


def hash_of(data: bytes) -> int:
    """64 bits: among a billion different things the odds that any two share it are 3 in
    100."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def image_hash(image: Image) -> int:
    return hash_of(image.data)


def document_hash(document: Document) -> int:
    """Of its words and its pictures, in their order."""
    pictures = b"".join(image_hash(image).to_bytes(8) for image in document.images)
    return hash_of(pictures + words(document).encode())


def is_validation(document: Document, share: float, by: ValidationBy = "text") -> bool:
    """`text`: copies of a text stay together. `image`: captions of one picture do; the
    first picture decides."""
    if by == "image" and document.images:
        return image_hash(document.images[0]) < share * 2**64
    return hash_of(words(document).encode()) < share * 2**64
