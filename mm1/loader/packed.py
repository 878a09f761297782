"""The packed loader: rows (packed sequences) of isolated documents from a weighted
mixture of prepared folders."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Annotated, Any, Literal, NamedTuple

from mm1.batch import PackedBatch
from mm1.config import ConfigError
from mm1.data.image_processing import ImageProcessor
from mm1.data.prepared.lengths import DocumentLengths
from mm1.data.prepared.shards import Shards, prepared_folder
from mm1.data.render import Renderer, UnitFlops
from mm1.loader.collate import PackedDataset
from mm1.loader.loader import Loader, StepBatches
from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import (
    MixtureState,
    Row,
    WeightUnit,
    WindowSettings,
)
from mm1.loader.packing import balance_rows
from mm1.loader.plan_ahead import plan_ahead
from mm1.loader.row_flops import row_flops
from mm1.loader.split_options import check_split
from mm1.loader.validation_rows import validation_rows
from mm1.loader.workers import load_batches
from mm1.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, Range
from mm1.storage.remote_path import as_path

PlannedStep = tuple[list[Row], MixtureState, dict[str, Any]]
"""The rows of a step over all ranks, the mixture after their window, and the loader's
state after the step."""


class RankStep(NamedTuple):
    """What one rank loads in a step, and the other fields of its `StepBatches`."""

    micro_batches: list[list[Row]]
    counts: dict[str, int]
    gauges: dict[str, int | float]
    state: dict[str, Any]


class PackedLoader(Loader):
    """Rows of packed, isolated documents from a weighted mixture of prepared
    folders."""

    @dataclass(kw_only=True, slots=True)
    class Config(Loader.Config):
        sources: dict[str, str] = field(default_factory=dict)
        """Name -> folder written by `mm1 prepare`."""
        weights: dict[str, NonNegativeFloat] = field(default_factory=dict)
        """Name -> sampling weight; they sum to 1. A source of weight 0 is not read."""
        weights_of: WeightUnit = "tokens"
        """What weights are shares of: "tokens", "documents", or "rows", where a
        document counts as the part of a row that it takes (the larger of its share of
        the tokens and of the images)."""
        schedule: dict[NonNegativeInt, dict[str, NonNegativeFloat]] = field(
            default_factory=dict
        )
        """Step, counted from 0 -> the weights from then on; before the first of them
        `weights` apply."""
        batch_size: PositiveInt = 512
        """Packed sequences (rows) per optimiser step, over all ranks and
        micro-batches."""
        micro_batch_size: PositiveInt = 1
        """Packed sequences per forward pass on one rank; gradient accumulation makes up
        the step. Smaller takes less memory. The result is the same, except that the
        experts' load balancing loss is computed per micro-batch."""
        sequence_length: Annotated[int, Range(2)] = 4096
        """Tokens in a packed sequence, padding included."""
        max_images: NonNegativeInt = 16
        """Images that a packed sequence may hold; every sub-image counts."""
        image_multiple: PositiveInt = 1
        """Blank images make up a multiple of this in each micro-batch, so that a GPU
        meets few different shapes. They cost their share of the encoder's time, and
        count nowhere."""
        packing_window: PositiveInt = 512
        """Rows that are packed together. More pack more tightly, and mixing is exact
        over a window."""
        balance_by: Literal["images", "flops"] = "images"
        """What micro-batches of all ranks hold nearly equal amounts of: images, or the
        model's floating-point operations, which also counts attention and targets.
        Ranks wait less for the slowest of many with "flops" (benchmarks/stragglers.md);
        the rows of a step are the same."""
        isolate: bool = True
        """Mask attention between documents of a row. If not, each also sees the
        documents before it, as in MM1's ablation."""
        restart_positions: bool = True
        """Count positions from each document's start? If not, from the row's."""
        resize: Literal["squash", "crop", "pad"] | None = None
        """How whole images are resized; None: as the encoder was trained."""
        split: Literal["square", "dynamic"] = "square"
        """How large images are split into tiles: n x n, or by aspect ratio (see
        `mm1.data.image_processing`)."""
        min_tiles: PositiveInt = 1
        """Minimum tiles per image, however small it is."""
        max_tiles: PositiveInt = 1
        """Maximum tiles per image, its overview not counted; 1: images are not
        split."""
        split_last: PositiveInt | None = None
        """Split only the last so many images of a document; None: all may be split."""
        index_tokens: bool = False
        """Put a text before each sub-image that says where in its image it lies."""

        def image_processor(self, whole: ImageProcessor) -> ImageProcessor:
            """Raises ConfigError for options that contradict one another."""
            image_processor = replace(
                whole,
                resize=self.resize or whole.resize,
                split=self.split,
                min_tiles=self.min_tiles,
                max_tiles=self.max_tiles,
                split_last=self.split_last,
                index_tokens=self.index_tokens,
            )
            check_split(image_processor)
            return image_processor

        def folders(self) -> tuple[str, ...]:
            return tuple(self.sources.values())

        def tokenizer(self) -> str:
            if not self.sources:
                raise ConfigError(
                    "loader.sources is empty: name prepared folders, as"
                    " loader.sources.text=data/text"
                )
            return prepared_folder(next(iter(self.sources.values())))

    def __init__(
        self, config: Config, *, renderer: Renderer, seed: int
    ) -> None:
        self.config = config
        self.renderer = renderer
        self._check_images_fit()
        self.sources = {
            name: DocumentLengths(folder, renderer)
            for name, folder in config.sources.items()
        }
        self.names = tuple(self.sources)
        self.mixture = Mixture(
            self.sources,
            config.weights,
            sequence_length=config.sequence_length,
            max_images=config.max_images if renderer.image_processor else 0,
            packing_window=config.packing_window,
            seed=seed,
            weights_of=config.weights_of,
            schedule={
                step * config.batch_size: weights
                for step, weights in config.schedule.items()
            },
        )
        self.data = {
            name: source.describe() | {"seed": seed}
            for name, source in self.sources.items()
        }
        """What the order of each source's documents, and where they are cut, depends
        on."""

    def _check_images_fit(self) -> None:
        """Raises ConfigError if an image with the most tiles fits no row: it would
        always be skipped."""
        c = self.config
        processor = self.renderer.image_processor
        if processor is None:
            return
        num_tokens = self.renderer.tokens_per_image
        most = max(
            len(processor.positions(grid)) for grid in processor.allowed_grids()
        )
        if most > c.max_images or most * num_tokens > c.sequence_length:
            raise ConfigError(
                f"loader.max_tiles={c.max_tiles} gives up to {most} sub-images with"
                f" {num_tokens} tokens each, which do not fit a row of"
                f" loader.max_images={c.max_images} and"
                f" loader.sequence_length={c.sequence_length}"
            )

    def _dataset(
        self, folders: dict[str, str], split: str = "train"
    ) -> PackedDataset:
        return PackedDataset(
            self.renderer,
            folders,
            sequence_length=self.config.sequence_length,
            isolate=self.config.isolate,
            restart_positions=self.config.restart_positions,
            image_multiple=self.config.image_multiple,
            split=split,
        )

    def steps(
        self, state: dict[str, Any] | None, *, rank: int, world_size: int
    ) -> Iterator[StepBatches]:
        """Raises ConfigError if the rows of a step do not divide over ranks and
        micro-batches, or the state is that of other data."""
        micro = self.config.micro_batch_size
        per_rank, rest = divmod(self.config.batch_size, world_size)
        if rest or per_rank % micro:
            raise ConfigError(
                f"loader.batch_size={self.config.batch_size} does not divide over"
                f" {world_size} ranks with loader.micro_batch_size={micro}: make it a"
                f" multiple of {world_size * micro}"
            )
        start = self._begin(state)

        def deliver() -> Iterator[StepBatches]:
            planned = self._planned(*start, rank, world_size)
            # planned, but not yet delivered by the workers
            pending: deque[RankStep] = deque()

            def plan() -> Iterator[list[Row]]:
                for step in planned:
                    pending.append(step)
                    yield from step.micro_batches

            dataset = self._dataset(self.config.sources)
            batches = load_batches(plan(), dataset, workers=self.config.workers)
            while True:
                micro_batches = list(islice(batches, per_rank // micro))
                yield StepBatches(micro_batches, *pending.popleft()[1:])

        return deliver()

    def _planned(
        self, mixture: MixtureState, used: int, rank: int, world_size: int
    ) -> Iterator[RankStep]:
        """A rank's steps. Where workers load, a process of its own plans, at least a
        window ahead; without, planning is the smaller part of what a step waits for."""
        if not self.config.workers:
            return self.rank_steps(mixture, used, rank, world_size)
        steps_per_window = -(
            -self.config.packing_window // self.config.batch_size
        )
        return plan_ahead(
            self.rank_steps,
            mixture,
            used,
            rank,
            world_size,
            preload=type(self).__module__,
            num_ahead=1 + steps_per_window,
        )

    def rank_steps(
        self, mixture: MixtureState, used: int, rank: int, world_size: int
    ) -> Iterator[RankStep]:
        """Endless steps of one rank, from row `used` of a window on."""
        for rows, after, state in self._plan(mixture, used):
            yield RankStep(
                self.micro_batches(rows, rank, world_size),
                self._counts(rows),
                self._gauges(after),
                state,
            )

    def plan_steps(self, state: dict[str, Any] | None) -> Iterator[PlannedStep]:
        """Endless steps from a state on; raises ConfigError if it is that of other
        data."""
        return self._plan(*self._begin(state))

    def _begin(self, state: dict[str, Any] | None) -> tuple[MixtureState, int]:
        return self._resume(state) if state else (self.mixture.start(), 0)

    def _plan(self, mixture: MixtureState, used: int) -> Iterator[PlannedStep]:
        rows: list[Row] = []
        while True:
            settings = self.mixture.settings(mixture)
            window = self.mixture.window(mixture, settings)
            window_state = {
                "mixture": mixture.to_json(),
                "settings": asdict(settings),
                "data": self.data,
            }
            while used < len(window.rows):
                taken = window.rows[
                    used : used + self.config.batch_size - len(rows)
                ]
                rows = rows + taken
                used = used + len(taken)
                if len(rows) == self.config.batch_size:
                    yield rows, window.after, window_state | {"row": used}
                    rows = []
            mixture = window.after
            used = 0

    def _resume(self, state: dict[str, Any]) -> tuple[MixtureState, int]:
        """The state at the start of a window, and how many of its rows have been used.

        If the window's settings have changed since, its other rows are not used: their
        documents are planned again.

        Raises:
            ConfigError: a source's documents, or how they are rendered, have changed.
        """
        data: dict[str, dict[str, Any]] = state["data"]
        for name, then in data.items():
            now = self.data.get(name, then)
            if changed := {
                key: (then[key], now[key])
                for key in then
                if then[key] != now[key]
            }:
                raise ConfigError(
                    f"loader.sources.{name} is not what it was when the run stopped"
                    f" (then, now): {changed}; give new documents a source of their"
                    " own, and keep the seed and the tokens per image"
                )
        mixture = MixtureState.from_json(state["mixture"])
        settings = WindowSettings(**state["settings"])
        used = state["row"]
        if settings == self.mixture.settings(mixture):
            return mixture, used
        window = self.mixture.window(mixture, settings)
        return window.state_after(used, self.mixture.names), 0

    def micro_batches(
        self, rows: list[Row], rank: int, world_size: int
    ) -> list[list[Row]]:
        """This rank's rows in micro-batches; those of all ranks hold nearly equal
        amounts of `balance_by`."""
        unit = (
            self.renderer.unit_flops
            if self.config.balance_by == "flops"
            else UnitFlops()
        )
        flops = [
            row_flops(r, unit, self.renderer.tokens_per_image) for r in rows
        ]
        num = len(rows) // self.config.micro_batch_size
        chosen = balance_rows(flops, num, rank, world_size)
        return [[rows[i] for i in micro_batch] for micro_batch in chosen]

    def _counts(self, rows: list[Row]) -> dict[str, int]:
        """Of a step over all ranks. A document counts where it begins; segments that
        continue one count as `continued_documents`."""
        counts = {
            "tokens": len(rows) * self.config.sequence_length,
            "unpadded_tokens": 0,
            "documents": 0,
            "continued_documents": 0,
            "images": 0,
        }
        counts |= {f"tokens/{name}": 0 for name in self.names}
        for segment in (segment for row in rows for segment in row):
            num_tokens = segment.stop - segment.start
            counts["unpadded_tokens"] += num_tokens
            counts[f"tokens/{self.names[segment.source]}"] += num_tokens
            counts[
                "documents" if segment.start == 0 else "continued_documents"
            ] += 1
            counts["images"] += segment.images
        return counts

    def _gauges(self, state: MixtureState) -> dict[str, int | float]:
        epochs = {
            f"epoch/{name}": round(
                state.drawn[name] / max(1, source.num_documents), 4
            )
            for name, source in self.sources.items()
        }
        return epochs | {
            f"skipped_documents/{name}": state.skipped[name]
            for name in self.names
        }

    def describe(self) -> dict[str, dict[str, int | float]]:
        weights = self.config.weights
        return {
            name: source.describe() | {"weight": weights[name]}
            for name, source in self.sources.items()
        }

    def validation(
        self, *, rank: int, world_size: int
    ) -> Iterator[PackedBatch]:
        """Source by source; a batch holds `micro_batch_size` rows of one source."""
        for name, folder in self.config.sources.items():
            if not Shards.has_split(as_path(folder), "validation"):
                continue
            rows = validation_rows(
                DocumentLengths(folder, self.renderer, "validation"),
                sequence_length=self.config.sequence_length,
                max_images=self.mixture.max_images,
            )
            dataset = self._dataset({name: folder}, "validation")
            micro = self.config.micro_batch_size
            chunks = [rows[i : i + micro] for i in range(0, len(rows), micro)]
            # empty batches keep the ranks in step
            chunks += [[]] * (-len(chunks) % world_size)
            for chunk in chunks[rank::world_size]:
                yield dataset[chunk]
