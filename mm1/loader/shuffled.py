"""Base of the loaders of single items, pairs or images, in contrast to rows of packed
documents.

The items of all folders are numbered consecutively, and each epoch is another
permutation of the numbers. The state is how many have been taken, so a run resumes
exactly on any number of ranks and workers, and with another batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from mm1.batch import Batch
from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.data.image_processing import ImageError
from mm1.data.prepared.lengths import DocumentLengths
from mm1.data.prepared.shards import Shards, prepared_folder
from mm1.data.render import Renderer
from mm1.loader.loader import Loader, StepBatches
from mm1.loader.permutation import permute
from mm1.loader.shared_memory import empty_images
from mm1.loader.workers import load_batches
from mm1.ranges import PositiveInt
from mm1.storage.remote_path import as_path


class ShuffledLoader(Loader):
    """Batches of items from prepared folders, in another order in each epoch."""

    ITEMS: ClassVar[str]
    """What the items are called in the state and in messages."""

    @dataclass(kw_only=True, slots=True)
    class Config(Loader.Config):
        sources: tuple[str, ...] = ()
        """Folders written by `mm1 prepare`; their items are shuffled together."""
        batch_size: PositiveInt = 512
        """Items per optimiser step, over all ranks."""

        def folders(self) -> tuple[str, ...]:
            return self.sources

        def tokenizer(self) -> str:
            if not self.sources:
                raise ConfigError(
                    "loader.sources is empty: name prepared data, as"
                    " loader.sources=['data/captions']"
                )
            return prepared_folder(self.sources[0])

    def __init__(
        self, config: Config, *, renderer: Renderer, seed: int
    ) -> None:
        if renderer.image_processor is None:
            raise ConfigError(
                f"the loader of {self.ITEMS} needs a model with an image encoder"
            )
        self.config = config
        self.renderer = renderer
        self.seed = seed
        self.sources = {
            folder: DocumentLengths(folder, renderer)
            for folder in config.sources
        }
        self.size = len(self.dataset("train"))

    def dataset(self, split: str) -> "ShuffledDataset":
        """The items of a split."""
        raise NotImplementedError

    def micro_batch_size(self, world_size: int) -> int:
        """Items per forward pass on one rank."""
        return self.config.batch_size // world_size

    def steps(
        self, state: dict[str, Any] | None, *, rank: int, world_size: int
    ) -> Iterator[StepBatches]:
        """Raises ConfigError if the batch does not divide over ranks and micro-batches,
        is larger than the data, or the state is that of other data."""
        batch = self.config.batch_size
        micro = self.micro_batch_size(world_size)
        if batch % (world_size * micro) or batch > self.size:
            ranks = f"{world_size} ranks" + f" of {micro} at a time" * (
                micro < batch // world_size
            )
            raise ConfigError(
                f"loader.batch_size={batch} must divide over {ranks} and be at most"
                f" {self.size} {self.ITEMS}"
            )
        if state and state["of"] != self.size:
            raise ConfigError(
                f"loader.sources held {state['of']} {self.ITEMS} when the run stopped,"
                f" and hold {self.size} now; the order depends on all of them: keep the"
                " folders"
            )
        return self._deliver(
            state[self.ITEMS] if state else 0, micro, rank, world_size
        )

    def _deliver(
        self, start: int, micro: int, rank: int, world_size: int
    ) -> Iterator[StepBatches]:
        batch = self.config.batch_size

        def plan() -> Iterator[list[int]]:
            position = start
            while True:
                items = self.items(np.arange(position, position + batch))
                mine = items[rank::world_size].tolist()
                yield from (
                    mine[i : i + micro] for i in range(0, len(mine), micro)
                )
                position += batch

        batches = load_batches(
            plan(), self.dataset("train"), workers=self.config.workers
        )
        position = start
        while True:
            micro_batches = list(islice(batches, batch // world_size // micro))
            position += batch
            epoch = round(position / self.size, 4)
            yield StepBatches(
                micro_batches,
                {"images": batch},
                {"epoch": epoch},
                {self.ITEMS: position, "of": self.size},
            )

    def items(self, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The items at these positions of the endless shuffled stream."""
        items = np.empty_like(positions)
        for epoch in np.unique(positions // self.size):
            here = positions // self.size == epoch
            items[here] = permute(
                positions[here] % self.size,
                self.size,
                f"{self.seed}/{self.ITEMS}/{epoch}",
            )
        return items

    def describe(self) -> dict[str, dict[str, int | float]]:
        return {
            Path(folder).name: source.describe()
            for folder, source in self.sources.items()
        }


class ShuffledDataset(Dataset):
    """Map-style dataset over batches: an index is a list of items. Workers open the
    shards for themselves."""

    def __init__(
        self, renderer: Renderer, sources: tuple[str, ...], split: str
    ) -> None:
        self.renderer = renderer
        self.split = split
        self.folders = [
            as_path(folder)
            for folder in sources
            if Shards.has_split(as_path(folder), split)
        ]
        self.shards: list[Shards] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"shards": []}

    def num_items(self, shards: Shards) -> int:
        raise NotImplementedError

    def __getitem__(self, items: list[int]) -> Batch:
        raise NotImplementedError

    def __len__(self) -> int:
        """Items in all folders."""
        return sum(self.num_items(shards) for shards in self._open())

    def _open(self) -> list[Shards]:
        self.shards = self.shards or [
            Shards(folder, self.split, prefetch=self.split == "train")
            for folder in self.folders
        ]
        return self.shards

    def locate(self, item: int) -> tuple[Shards, int]:
        """The folder that holds an item, and the item's number there."""
        for shards in self._open():
            if item < self.num_items(shards):
                return shards, item
            item -= self.num_items(shards)
        raise IndexError(item)

    def empty_images(self, num_images: int) -> UInt8[Tensor, "N 3 H W"]:
        processor = self.renderer.image_processor
        assert processor is not None  # checked by `ShuffledLoader`
        return empty_images(num_images, processor.size)

    def pixels(self, image: Image, key: str) -> UInt8[Tensor, "3 H W"]:
        """The whole image, not split; an ImageError names its origin, `key`."""
        try:
            return self.renderer.sub_images(image)[0]
        except ImageError as error:
            raise ImageError(f"{key}: {error}") from error
