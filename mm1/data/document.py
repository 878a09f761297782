"""The one type that every data set, prompt and conversation is turned into.

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
    """A piece of text. Pieces are tokenised one by one, so a prompt and a training page
    split alike."""

    content: str
    loss: bool = True
    """Are its tokens learnt from?"""
    end: bool = False
    """Does the end token follow it (learnt from if `loss`)? So an answer inside a
    conversation has its own end."""
    tokens: Sequence[int] | None = None
    """Its ids where it was tokenised beforehand, at prepare time; of a shard's texts an
    `array`."""


@dataclass(frozen=True, slots=True)
class Image:
    """An encoded picture (JPEG, PNG, WebP bytes); it is decoded only where its pixels
    are needed."""

    data: bytes
    width: int
    height: int
    url: str = ""
    """Where it was found, as far as its source knows; for filters at prepare time, not
    kept in shards."""


@dataclass(frozen=True, slots=True)
class Document:
    """Text and pictures in reading order."""

    parts: tuple[Text | Image, ...]

    def __add__(self, other: "Document") -> "Document":
        return Document(self.parts + other.parts)

    @property
    def images(self) -> tuple[Image, ...]:
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def text(self) -> str:
        """The text alone, a picture shown as `<image>`: for people and logs, never for
        the model."""
        return "".join(
            part.content if isinstance(part, Text) else "<image>" for part in self.parts
        )
