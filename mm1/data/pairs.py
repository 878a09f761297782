"""The feed of image-caption pairs, for contrastive pre-training."""

import hashlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mm1.batch import PairBatch
from mm1.config import ConfigError
from mm1.data.document import Text
from mm1.data.feed import Feed, Prepared, Step, load
from mm1.data.images import ImageError
from mm1.data.mixture import permute
from mm1.data.render import Renderer
from mm1.data.shards import Shards


class Pairs(Feed):
    """Batches of pairs from one prepared folder of captions; each epoch is another permutation of it."""

    @dataclass(kw_only=True, slots=True)
    class Config(Feed.Config):
        sources: tuple[str, ...] = ()
        """Folders written by `mm1 prepare captions`; their pairs are shuffled together."""
        batch: int = 512
        """Pairs of a step over all ranks: what the contrast is taken over."""
        context: int = 77
        """Tokens of a caption that are read, its end token included; longer captions are cut."""

        def tokenizer(self) -> str:
            if not self.sources:
                raise ConfigError("feed.sources is empty: name prepared captions, as feed.sources=['data/captions']")
            return self.sources[0]

    def __init__(self, config: Config, *, renderer: Renderer, seed: int) -> None:
        if renderer.views is None:
            raise ConfigError("the feed of pairs needs a model with an image encoder")
        self.config, self.renderer, self.seed = config, renderer, seed
        self.sources = {folder: Prepared(folder, self.renderer) for folder in config.sources}
        self.size = sum(source.num_documents for source in self.sources.values())

    def steps(self, state: dict[str, Any] | None, *, rank: int, world_size: int) -> Iterator[Step]:
        """Raises ConfigError where the batch does not divide over ranks."""
        batch = self.config.batch
        if batch % world_size or batch > self.size:
            raise ConfigError(
                f"feed.batch={batch} must divide over {world_size} ranks and be at most {self.size} pairs"
            )
        afters: deque[int] = deque()

        def order() -> Iterator[list[int]]:
            position = state["pairs"] if state else 0
            while True:
                places = np.arange(position, position + batch)
                position += batch
                afters.append(position)
                yield self.documents(places)[rank::world_size].tolist()

        filler = _Filler(self.renderer, self.config)
        for pairs in load(order(), filler, workers=self.config.workers):
            after = afters.popleft()
            yield Step([pairs], {"images": batch}, {"epoch": round(after / self.size, 4)}, {"pairs": after})

    def documents(self, places: np.ndarray) -> np.ndarray:
        """Which documents stand at these places of the endless stream."""
        found = np.empty_like(places)
        for epoch in np.unique(places // self.size):
            here = places // self.size == epoch
            found[here] = permute(places[here] % self.size, self.size, f"{self.seed}/pairs/{epoch}")
        return found

    def describe(self) -> dict[str, dict[str, int | float]]:
        return {Path(folder).name: source.describe() for folder, source in self.sources.items()}

    def held_out(self, *, rank: int, world_size: int) -> Iterator[PairBatch]:
        """Whole batches alone: a contrastive loss depends on the size of its batch."""
        filler = _Filler(self.renderer, self.config, split="held_out")
        for first in range(0, filler.size - self.config.batch + 1, self.config.batch):
            yield filler(list(range(first, first + self.config.batch))[rank::world_size])


class _Filler(Dataset):
    """Document numbers -> a batch of pairs; runs in workers, which open the shards for themselves."""

    def __init__(self, renderer: Renderer, config: Pairs.Config, split: str = "train") -> None:
        self.renderer, self.context, self.split = renderer, config.context, split
        self.folders = [Path(f) for f in config.sources if Shards.has_split(Path(f), split)]
        self.shards: list[Shards] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"shards": []}

    @property
    def size(self) -> int:
        return sum(len(shards) for shards in self._open())

    def _open(self) -> list[Shards]:
        self.shards = self.shards or [Shards(folder, self.split) for folder in self.folders]
        return self.shards

    def _find(self, number: int) -> tuple[Shards, int]:
        """The pairs of all folders are numbered through."""
        for shards in self._open():
            if number < len(shards):
                return shards, number
            number -= len(shards)
        raise IndexError(number)

    def __getitem__(self, documents: list[int]) -> PairBatch:
        return self(documents)

    def __call__(self, documents: Any) -> PairBatch:
        assert self.renderer.views is not None
        context, images, captions, ids = self.context, [], [], []
        for place in documents:
            shards, number = self._find(place)
            document = shards.document(number)
            try:
                images.append(self.renderer.views(document.images[0])[0])
            except (ImageError, IndexError) as error:
                raise ImageError(f"{shards.key(number)}: {error or 'no picture'}") from error
            tokens = [t for part in document.parts if isinstance(part, Text) for t in self.renderer.text_tokens(part)]
            captions.append([*tokens[: context - 1], self.renderer.tokenizer.end])
            ids.append(int.from_bytes(hashlib.blake2b(repr(captions[-1]).encode(), digest_size=7).digest()))
        tokens = np.zeros((len(captions), context), dtype=np.int64)
        for row, caption in zip(tokens, captions, strict=True):
            row[: len(caption)] = caption
        return PairBatch(
            images=torch.stack(images),
            tokens=torch.from_numpy(tokens),
            lengths=torch.tensor([len(caption) for caption in captions]),
            caption_ids=torch.tensor(ids),
        )
