"""The loaders of single things, pairs or images, rather than of rows that documents are
packed into.

All things of all folders are numbered through, and each epoch is another permutation of
the numbers. The state is how many have been taken: a run resumes exactly, on any number
of ranks and workers, and with another batch size.
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
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.loader.loader import Loader, Prepared, StepBatches, load
from mm1.loader.permutation import permute
from mm1.loader.shared_memory import empty_images


class ShuffledLoader(Loader):
    """Batches of things from prepared folders, in another order in each epoch."""

    THINGS: ClassVar[str]
    """Their name, in the state and in messages."""

    @dataclass(kw_only=True, slots=True)
    class Config(Loader.Config):
        sources: tuple[str, ...] = ()
        """Folders written by `mm1 prepare`; what they hold is shuffled together."""
        batch_size: int = 512
        """Things of a step over all ranks."""

        def tokenizer(self) -> str:
            if not self.sources:
                raise ConfigError(
                    "loader.sources is empty: name prepared data, as"
                    " loader.sources=['data/captions']"
                )
            return self.sources[0]

    def __init__(self, config: Config, *, renderer: Renderer, seed: int) -> None:
        if renderer.image_processor is None:
            raise ConfigError(
                f"the loader of {self.THINGS} needs a model with an image encoder"
            )
        self.config = config
        self.renderer = renderer
        self.seed = seed
        self.sources = {
            folder: Prepared(folder, self.renderer) for folder in config.sources
        }
        self.size = self.filler("train").size

    def filler(self, split: str) -> "Filler":
        """What makes batches of the things of a split."""
        raise NotImplementedError

    def micro_batch_size(self, world_size: int) -> int:
        """Things that a rank looks at in one pass."""
        return self.config.batch_size // world_size

    def steps(
        self, state: dict[str, Any] | None, *, rank: int, world_size: int
    ) -> Iterator[StepBatches]:
        """Raises ConfigError where the batch does not divide over ranks and passes, or
        is larger than the data."""
        batch = self.config.batch_size
        micro = self.micro_batch_size(world_size)
        if batch % (world_size * micro) or batch > self.size:
            ranks = f"{world_size} ranks" + f" of {micro} at a time" * (
                micro < batch // world_size
            )
            raise ConfigError(
                f"loader.batch_size={batch} must divide over {ranks} and be at most"
                f" {self.size} {self.THINGS}"
            )
        if state and state["of"] != self.size:
            raise ConfigError(
                f"loader.sources held {state['of']} {self.THINGS} when the run stopped,"
                f" and hold {self.size} now; which are still to come depends on all of"
                " them: keep the folders"
            )
        start = state[self.THINGS] if state else 0

        def plan() -> Iterator[list[int]]:
            position = start
            while True:
                mine = self.things(np.arange(position, position + batch))[
                    rank::world_size
                ].tolist()
                yield from (mine[i : i + micro] for i in range(0, len(mine), micro))
                position += batch

        batches = load(plan(), self.filler("train"), workers=self.config.workers)
        position = start
        while True:
            micro_batches = list(islice(batches, batch // world_size // micro))
            position += batch
            epoch = round(position / self.size, 4)
            yield StepBatches(
                micro_batches,
                {"images": batch},
                {"epoch": epoch},
                {self.THINGS: position, "of": self.size},
            )

    def things(self, places: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The numbers of the things that stand at these places of the endless
        stream."""
        found = np.empty_like(places)
        for epoch in np.unique(places // self.size):
            here = places // self.size == epoch
            found[here] = permute(
                places[here] % self.size,
                self.size,
                f"{self.seed}/{self.THINGS}/{epoch}",
            )
        return found

    def describe(self) -> dict[str, dict[str, int | float]]:
        return {
            Path(folder).name: source.describe()
            for folder, source in self.sources.items()
        }


class Filler(Dataset):
    """Numbers of things -> a batch; runs in workers, which open the shards for
    themselves."""

    def __init__(
        self, renderer: Renderer, sources: tuple[str, ...], split: str
    ) -> None:
        self.renderer = renderer
        self.split = split
        self.folders = [
            Path(folder) for folder in sources if Shards.has_split(Path(folder), split)
        ]
        self.shards: list[Shards] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"shards": []}

    def count(self, shards: Shards) -> int:
        """The things in a folder."""
        raise NotImplementedError

    def __call__(self, numbers: Any) -> Batch:
        raise NotImplementedError

    def __getitem__(self, numbers: list[int]) -> Batch:
        return self(numbers)

    @property
    def size(self) -> int:
        return sum(self.count(shards) for shards in self._open())

    def _open(self) -> list[Shards]:
        self.shards = self.shards or [
            Shards(folder, self.split) for folder in self.folders
        ]
        return self.shards

    def find(self, number: int) -> tuple[Shards, int]:
        """Where a thing is: its folder, and its number there."""
        for shards in self._open():
            if number < self.count(shards):
                return shards, number
            number -= self.count(shards)
        raise IndexError(number)

    def room(self, num_views: int) -> UInt8[Tensor, "N 3 H W"]:
        assert (
            self.renderer.image_processor is not None
        )  # `Shuffled` refuses a model without an encoder
        return empty_images(num_views, self.renderer.image_processor.size)

    def view(self, image: Image, key: str) -> Any:
        """The picture as one view; raises ImageError with its origin, `key`."""
        try:
            return self.renderer.sub_images(image)[0]
        except ImageError as error:
            raise ImageError(f"{key}: {error}") from error
