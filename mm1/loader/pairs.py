"""The loader of image-caption pairs, for contrastive pre-training."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor

from mm1.batch import PairBatch
from mm1.data.document import Text
from mm1.data.image_processing import ImageError
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.loader.shuffled import ShuffledDataset, ShuffledLoader
from mm1.ranges import PositiveInt, Range


class PairLoader(ShuffledLoader):
    """Batches of pairs from prepared folders of captions."""

    ITEMS = "pairs"

    @dataclass(kw_only=True, slots=True)
    class Config(ShuffledLoader.Config):
        sources: tuple[str, ...] = ()
        """Folders written by `mm1 prepare captions`; their pairs are shuffled
        together."""
        batch_size: PositiveInt = 512
        """Pairs per optimiser step, over all ranks: those contrasted with one
        another."""
        context: Annotated[int, Range(2)] = 77
        """Maximum tokens of a caption, end token included; longer captions are
        truncated."""

    config: Config

    def dataset(self, split: str) -> "PairDataset":
        return PairDataset(
            self.renderer, self.config.sources, split, self.config.context
        )

    def validation(self, *, rank: int, world_size: int) -> Iterator[PairBatch]:
        """Full batches only: a contrastive loss depends on its batch size."""
        dataset = self.dataset("validation")
        batch = self.config.batch_size
        for first in range(0, len(dataset) - batch + 1, batch):
            yield dataset[list(range(first, first + batch))[rank::world_size]]


class PairDataset(ShuffledDataset):
    """Batches of pairs, one per document."""

    def __init__(
        self,
        renderer: Renderer,
        sources: tuple[str, ...],
        split: str,
        context: int,
    ) -> None:
        super().__init__(renderer, sources, split)
        self.context = context

    def num_items(self, shards: Shards) -> int:
        return len(shards)

    def __getitem__(self, items: list[int]) -> PairBatch:
        tokenizer = self.renderer.tokenizer
        captions = []
        caption_ids = []
        images = self.empty_images(len(items))
        for i, item in enumerate(items):
            shards, number = self.locate(item)
            key, document = shards.read(number)
            if not document.images:
                raise ImageError(f"{key}: no image")
            images[i] = self.pixels(document.images[0], key)
            tokens = [
                token
                for part in document.parts
                if isinstance(part, Text)
                for token in self.renderer.text_tokens(part)
            ]
            captions.append(caption_tokens(tokens, tokenizer, self.context))
            text_hash = hashlib.blake2b(
                repr(captions[-1]).encode(), digest_size=7
            )
            caption_ids.append(int.from_bytes(text_hash.digest()))
        padded, lengths = pad_captions(captions, tokenizer, self.context)
        return PairBatch(
            images=images,
            tokens=padded,
            lengths=lengths,
            caption_ids=torch.tensor(caption_ids),
        )


def caption_tokens(
    tokens: Sequence[int], tokenizer: Tokenizer, context: int
) -> list[int]:
    """A text's tokens as a text encoder reads them: begin token (if there is one),
    text, end token.

    At most `context` tokens; the text is truncated before the end token.
    """
    begun = [*([] if tokenizer.begin is None else [tokenizer.begin]), *tokens]
    return [*begun[: context - 1], tokenizer.end]


def pad_captions(
    captions: Sequence[Sequence[int]], tokenizer: Tokenizer, context: int
) -> tuple[Int[Tensor, "B L"], Int[Tensor, " B"]]:
    """All captions padded to `context`, and their lengths."""
    tokens = torch.full((len(captions), context), tokenizer.pad)
    for row, caption in zip(tokens, captions, strict=True):
        row[: len(caption)] = torch.tensor(caption)
    return tokens, torch.tensor([len(caption) for caption in captions])
