"""The role of a data loader: an endless, resumable stream of this rank's batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mm1.batch import Batch
from mm1.config import Configurable
from mm1.data.image_processing import ImageProcessor
from mm1.data.render import Renderer
from mm1.ranges import NonNegativeInt


@dataclass(frozen=True, eq=False, slots=True)
class StepBatches:
    """One optimiser step's data on this rank."""

    micro_batches: list[Batch]
    counts: dict[str, int]
    """Totals of this step over all ranks: tokens, images, tokens of each source."""
    gauges: dict[str, int | float]
    """The current value for each source: epochs, skipped documents."""
    state: dict[str, Any]
    """The loader's state after this step; JSON."""


class Loader(Configurable):
    """Batches in an order that depends on the seed and a small state alone.

    The order is computed by one process of a rank, the same on every rank; workers only
    read, render and decode. So a run resumes exactly, on any number of ranks and
    workers, without reading anything twice.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        workers: NonNegativeInt = 0
        """Worker processes per rank that read, render and decode; 0: the training
        process does."""

        def tokenizer(self) -> str:
            """Folder of the prepared data's tokenizer.

            Raises:
                NotPrepared: the folder is not there.
                ConfigError: no folder is named.
            """
            raise NotImplementedError

        def folders(self) -> tuple[str, ...]:
            """The prepared folders that it reads."""
            raise NotImplementedError

        def image_processor(self, whole: ImageProcessor) -> ImageProcessor:
            """How this loader preprocesses images, given how the encoder takes a whole
            image."""
            return whole

        def build(self, *, renderer: Renderer, seed: int) -> "Loader":
            """`renderer` is that of the model that reads the batches
            (`mm1.infer.trained_model.make_renderer`)."""
            return self.make(renderer=renderer, seed=seed)

    def steps(
        self, state: dict[str, Any] | None, *, rank: int, world_size: int
    ) -> Iterator[StepBatches]:
        """Endless steps, continuing from `state` (None: from the beginning)."""
        raise NotImplementedError

    def describe(self) -> dict[str, dict[str, int | float]]:
        """Name of each source -> its documents, tokens and images, for people."""
        raise NotImplementedError

    def validation(self, *, rank: int, world_size: int) -> Iterator[Batch]:
        """The validation split, each document once; all ranks yield equally many
        batches."""
        raise NotImplementedError
