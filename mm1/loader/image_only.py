"""The loader of images alone, for reconstructive pre-training."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mm1.batch import ImageBatch
from mm1.data.prepared.shards import Shards
from mm1.loader.shuffled import ShuffledDataset, ShuffledLoader
from mm1.ranges import PositiveInt


class ImageLoader(ShuffledLoader):
    """Batches of all images in prepared folders of any kind; texts are ignored."""

    ITEMS = "images"

    @dataclass(kw_only=True, slots=True)
    class Config(ShuffledLoader.Config):
        sources: tuple[str, ...] = ()
        """Folders written by `mm1 prepare`; their images are shuffled together."""
        batch_size: PositiveInt = 512
        """Images per optimiser step, over all ranks and micro-batches."""
        micro_batch_size: PositiveInt | None = None
        """Images per forward pass on one rank; the rest of a step's are accumulated.
        None: all in one."""

    config: Config

    def dataset(self, split: str) -> "ImageDataset":
        return ImageDataset(self.renderer, self.config.sources, split)

    def micro_batch_size(self, world_size: int) -> int:
        return self.config.micro_batch_size or super().micro_batch_size(
            world_size
        )

    def validation(self, *, rank: int, world_size: int) -> Iterator[ImageBatch]:
        """The remainder that does not divide over the ranks is left out."""
        dataset = self.dataset("validation")
        num = len(dataset)
        mine = list(range(num - num % world_size))[rank::world_size]
        micro = self.micro_batch_size(world_size)
        for first in range(0, len(mine), micro):
            yield dataset[mine[first : first + micro]]


class ImageDataset(ShuffledDataset):
    """Batches of images."""

    def num_items(self, shards: Shards) -> int:
        return int(shards.image_offsets[-1])

    def __getitem__(self, items: list[int]) -> ImageBatch:
        images = self.empty_images(len(items))
        for i, item in enumerate(items):
            shards, number = self.locate(item)
            offsets = shards.image_offsets
            document = int(np.searchsorted(offsets, number, side="right")) - 1
            key, content = shards.read(document)
            image = content.images[number - int(offsets[document])]
            images[i] = self.pixels(image, key)
        return ImageBatch(images=images)
