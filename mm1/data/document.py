"""The type that every data set, prompt and conversation is turned into.

caption pair        Document(Image, Text)
interleaved page    Document(Text, Image, Text, Image, Text)
plain text          Document(Text)
instruction         Document(Image, Text(question, loss=False), Text(answer, end=True))
few-shot prompt     shot + shot + Document(Image, Text(question, loss=False))
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text. Pieces are tokenised one by one, so that prompts and training
    documents tokenise alike."""

    content: str
    loss: bool = True
    """Are its tokens targets of the loss?"""
    end: bool = False
    """Is it followed by an end token (a target if `loss`)? So each answer in a
    conversation has its own."""
    tokens: Sequence[int] | None = None
    """Its ids, if it was tokenised beforehand; an `array` where it was read from a
    shard."""


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded image (JPEG, PNG, WebP bytes), decoded only where its pixels are
    needed."""

    data: bytes
    width: int
    height: int
    url: str = ""
    """Its origin, as far as the source knows; for filters at prepare time, not kept in
    shards."""


@dataclass(frozen=True, slots=True)
class Document:
    """Text and images in reading order."""

    parts: tuple[Text | Image, ...]

    def __add__(self, other: "Document") -> "Document":
        return Document(self.parts + other.parts)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def text(self) -> str:
        """The text with `<image>` for each image: for people and logs, never for the
        model."""
        return self.written_out("")

    def written_out(self, end: str) -> str:
        """As `text`, with `end` wherever an end token follows a text."""
        return "".join(
            part.content + end * part.end
            if isinstance(part, Text)
            else "<image>"
            for part in self.parts
        )
