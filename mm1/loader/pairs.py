"""The loader of image-caption pairs, for contrastive pre-training."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mm1.batch import PairBatch
from mm1.data.document import Text
from mm1.data.image_processing import ImageError
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.loader.shuffled import Filler, ShuffledLoader


class PairLoader(ShuffledLoader):
    """Batches of pairs from prepared folders of captions."""

    THINGS = "pairs"

    @dataclass(kw_only=True, slots=True)
    class Config(ShuffledLoader.Config):
        sources: tuple[str, ...] = ()
        """Folders written by `mm1 prepare captions`; their pairs are shuffled
        together."""
        batch_size: int = 512
        """Pairs of a step over all ranks: what the contrast is taken over."""
        context: int = 77
        """Tokens of a caption that are read, its end token included; longer captions
        are cut."""

    config: Config

    def filler(self, split: str) -> Filler:
        return _Filler(self.renderer, self.config.sources, split, self.config.context)

    def validation(self, *, rank: int, world_size: int) -> Iterator[PairBatch]:
        """Whole batches alone: a contrastive loss depends on the size of its batch."""
        filler = self.filler("validation")
        for first in range(
            0, filler.size - self.config.batch_size + 1, self.config.batch_size
        ):
            yield filler(
                list(range(first, first + self.config.batch_size))[rank::world_size]
            )  # type: ignore[misc]


class _Filler(Filler):
    """Numbers of documents -> a batch of pairs."""

    def __init__(
        self, renderer: Renderer, sources: tuple[str, ...], split: str, context: int
    ) -> None:
        super().__init__(renderer, sources, split)
        self.context = context

    def count(self, shards: Shards) -> int:
        return len(shards)

    def __call__(self, numbers: Any) -> PairBatch:
        tokenizer = self.renderer.tokenizer
        context = self.context
        captions = []
        ids = []
        images = self.room(len(numbers))
        for i, place in enumerate(numbers):
            shards, number = self.find(place)
            key, document = shards.read(number)
            if not document.images:
                raise ImageError(f"{key}: no picture")
            images[i] = self.view(document.images[0], key)
            tokens = [
                t
                for part in document.parts
                if isinstance(part, Text)
                for t in self.renderer.text_tokens(part)
            ]
            captions.append(caption(tokens, tokenizer, context))
            ids.append(
                int.from_bytes(
                    hashlib.blake2b(repr(captions[-1]).encode(), digest_size=7).digest()
                )
            )
        padded, lengths = pad_captions(captions, tokenizer, context)
        return PairBatch(
            images=images, tokens=padded, lengths=lengths, caption_ids=torch.tensor(ids)
        )


def caption(tokens: Sequence[int], tokenizer: Tokenizer, context: int) -> list[int]:
    """A text's tokens as a text tower reads them: from the token to begin with, if
    there is one, to the end token.

    No more than `context` tokens; what is too much is cut before the end token.
    """
    begun = [*([] if tokenizer.begin is None else [tokenizer.begin]), *tokens]
    return [*begun[: context - 1], tokenizer.end]


def pad_captions(
    captions: Sequence[Sequence[int]], tokenizer: Tokenizer, context: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"]]:
    """All of them, padded to `context`, and their lengths."""
    tokens = torch.full((len(captions), context), tokenizer.pad)
    for row, tokens_of_one in zip(tokens, captions, strict=True):
        row[: len(tokens_of_one)] = torch.tensor(tokens_of_one)
    return tokens, torch.tensor([len(tokens_of_one) for tokens_of_one in captions])
