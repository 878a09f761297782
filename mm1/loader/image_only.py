"""The loader of images alone, for reconstructive pre-training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mm1.batch import ImageBatch
from mm1.data.prepared.shards import Shards
from mm1.loader.shuffled import Filler, ShuffledLoader


class ImageLoader(ShuffledLoader):
    """Batches of all images of any prepared folders, whatever documents they stand in;
    texts are left out."""

    THINGS = "images"

    @dataclass(kw_only=True, slots=True)
    class Config(ShuffledLoader.Config):
        micro_batch_size: int | None = None
        """Images that a rank looks at in one pass; a step has as many passes as it
        needs. None: all in one."""

    config: Config

    def filler(self, split: str) -> Filler:
        return _Filler(self.renderer, self.config.sources, split)

    def micro_batch_size(self, world_size: int) -> int:
        return self.config.micro_batch_size or super().micro_batch_size(world_size)

    def validation(self, *, rank: int, world_size: int) -> Iterator[ImageBatch]:
        """Where the last images are fewer than the ranks, they are left out."""
        filler = _Filler(self.renderer, self.config.sources, "validation")
        mine = list(range(filler.size - filler.size % world_size))[rank::world_size]
        micro = self.micro_batch_size(world_size)
        for first in range(0, len(mine), micro):
            yield filler(mine[first : first + micro])


class _Filler(Filler):
    """Numbers of images -> a batch."""

    def count(self, shards: Shards) -> int:
        return int(shards.image_offsets[-1])

    def __call__(self, numbers: Any) -> ImageBatch:
        views = self.room(len(numbers))
        for i, place in enumerate(numbers):
            shards, number = self.find(place)
            document = (
                int(np.searchsorted(shards.image_offsets, number, side="right")) - 1
            )
            which = number - int(shards.image_offsets[document])
            key, found = shards.read(document)
            views[i] = self.view(found.images[which], key)
        return ImageBatch(images=views)
