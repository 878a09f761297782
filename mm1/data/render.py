"""Document -> tokens. Training, evaluation and serving all come through here, so the model meets one layout in each.

    Document(Image, Text("a cat"))  ->  tokens  <i> <i> <i> <i> a cat <end>      (4 tokens an image)
                                        learn    .   .   .   .  x  x   x

Every document ends with `<end>`, unless its last part has brought its own, or it is a prompt. Where the tokenizer has a
token to begin with, every document begins with it.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from mm1.data.document import Document, Image, Text
from mm1.data.images import Views
from mm1.data.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False, slots=True)
class Sequence:
    """A rendered document; its pictures stay encoded until a batch is made of it."""

    tokens: Int[np.ndarray, " n"]
    learn: Bool[np.ndarray, " n"]
    """Is this token a target?"""
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class Renderer:
    """Lays a document out for a model that sees pictures as `views`, each as `tokens_per_image` tokens."""

    tokenizer: Tokenizer
    views: Views | None
    """None for a model without an encoder: a document with pictures is then an error."""
    tokens_per_image: int = 0

    def __call__(self, document: Document, *, end: bool = True) -> Sequence:
        """`end=False` leaves the document open for the model to go on: a prompt."""
        tokens = [] if self.tokenizer.begin is None else [self.tokenizer.begin]
        learn = [False] * len(tokens)
        for part in document.parts:
            if isinstance(part, Image):
                num = self.num_views(part) * self.tokens_per_image
                tokens += [self.tokenizer.image] * num
                learn += [False] * num
            else:
                ids = self.text_tokens(part)
                tokens += ids
                learn += [part.loss] * len(ids)
        last = document.parts[-1] if document.parts else None
        if end and not (isinstance(last, Text) and last.end):
            tokens.append(self.tokenizer.end)
            learn.append(last.loss if isinstance(last, Text) else True)
        return Sequence(np.array(tokens, dtype=np.int64), np.array(learn, dtype=bool), document.images)

    def text_tokens(self, part: Text) -> list[int]:
        ids = list(part.tokens) if part.tokens is not None else self.tokenizer.encode(part.content)
        return [*ids, self.tokenizer.end] if part.end else ids

    def num_views(self, image: Image) -> int:
        if self.views is None:
            raise ValueError("a document with pictures was given to a model without an image encoder")
        return int(self.views.count(image.width, image.height))


def text_length(document: Document, token_counts: list[int], *, begin: bool = False) -> int:
    """Tokens of a whole rendered document without its image tokens, from the token count of each text part.

    `begin`: has the tokenizer a token to begin with?
    """
    texts = [part for part in document.parts if isinstance(part, Text)]
    own_ends = sum(part.end for part in texts)
    last = document.parts[-1] if document.parts else None
    return begin + sum(token_counts) + own_ends + (not (isinstance(last, Text) and last.end))
