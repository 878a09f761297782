"""The packed loader: rows of isolated documents from a weighted mixture of prepared
folders."""

from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from mm1.batch import PackedBatch
from mm1.config import ConfigError
from mm1.data.image_processing import ImageProcessor
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.loader.collate import Span, collate
from mm1.loader.loader import Loader, Prepared, StepBatches, load
from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import Excerpt, MixtureState, Row, Terms, Unit
from mm1.loader.packing import Piece, deal, never_fits, plan


class PackedLoader(Loader):
    """Rows of packed, isolated documents from a weighted mixture of prepared
    folders."""

    @dataclass(kw_only=True, slots=True)
    class Config(Loader.Config):
        sources: dict[str, str] = field(default_factory=dict)
        """Name -> folder written by `mm1 prepare`."""
        weights: dict[str, float] = field(default_factory=dict)
        """Name -> share; they sum to 1. A source of weight 0 is not read."""
        weights_of: Unit = "tokens"
        """What they are shares of: "tokens", "documents", or "rows", the room that
        documents take of them (the larger of their share of a row's tokens and their
        share of its images)."""
        schedule: dict[int, dict[str, float]] = field(default_factory=dict)
        """Step -> the weights from it on, counted from 0; before the first of them
        `weights` hold."""
        batch_size: int = 512
        """Rows of a step, over all ranks and micro-batches."""
        micro_batch_size: int = 1
        """Rows that one rank computes at once; fewer need less memory. The result is
        the same, but for experts, whose balance is asked of each micro-batch."""
        sequence_length: int = 4096
        max_images: int = 16
        """Images (sub-images counted) that a row may hold."""
        packing_window: int = 512
        """Rows that are packed together: more pack tighter, and mix exactly over
        more."""
        isolate: bool = True
        """Does a document of a row see itself alone? If not, it sees those before it,
        as in MM1's ablation."""
        resize: Literal["squash", "crop", "pad"] | None = None
        """How whole pictures are fitted; None: as the encoder was trained."""
        split: Literal["square", "dynamic"] = "square"
        """How large pictures are split into tiles: n x n, or by the grid of their shape
        (see `mm1.data.image_processing`)."""
        min_tiles: int = 1
        """Tiles of a picture at least, however small it is."""
        max_tiles: int = 1
        """Tiles of a picture at most, its overview not counted; 1: none is split."""
        split_last: int | None = None
        """Of a document's pictures only the last so many are split; None: all may
        be."""
        index_tokens: bool = False
        """Text before each view that says where in its picture it lies."""

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
            _check_split(image_processor)
            return image_processor

        def tokenizer(self) -> str:
            if not self.sources:
                raise ConfigError(
                    "loader.sources is empty: name prepared folders, as"
                    " loader.sources.text=data/text"
                )
            return next(iter(self.sources.values()))

    def __init__(self, config: Config, *, renderer: Renderer, seed: int) -> None:
        self.config = config
        self.renderer = renderer
        self.seed = seed
        self._check_room()
        self.sources = {
            name: Prepared(folder, self.renderer)
            for name, folder in config.sources.items()
        }
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
        self.names = tuple(self.sources)
        self.data = {
            name: source.describe() | {"seed": seed}
            for name, source in self.sources.items()
        }
        """What the order of each source's documents, and where they are cut, depends
        on."""

    def _check_room(self) -> None:
        """Raises ConfigError where a picture of the most tiles fits no row: it would be
        left out each time."""
        c = self.config
        image_processor = self.renderer.image_processor
        num_tokens = self.renderer.tokens_per_image
        if image_processor is None:
            return
        most = max(
            len(image_processor.positions(grid))
            for grid in image_processor.allowed_grids()
        )
        if most > c.max_images or most * num_tokens > c.sequence_length:
            raise ConfigError(
                f"loader.max_tiles={c.max_tiles} gives up to {most} sub-images with"
                f" {num_tokens} tokens each, which do not fit a row of"
                f" loader.max_images={c.max_images} and"
                f" loader.sequence_length={c.sequence_length}"
            )

    def steps(
        self, state: dict[str, Any] | None, *, rank: int, world_size: int
    ) -> Iterator[StepBatches]:
        """Raises ConfigError where the rows of a step do not divide over ranks and
        micro-batches."""
        per_rank, rest = divmod(self.config.batch_size, world_size)
        if rest or per_rank % self.config.micro_batch_size:
            raise ConfigError(
                f"loader.batch_size={self.config.batch_size} does not divide over"
                f" {world_size} ranks with"
                f" loader.micro_batch_size={self.config.micro_batch_size}: make it a"
                f" multiple of {world_size * self.config.micro_batch_size}"
            )
        plans: deque[tuple[list[Row], MixtureState, dict[str, Any]]] = deque()

        def order() -> Iterator[list[Row]]:
            for planned in self.windows(state):
                plans.append(
                    planned
                )  # the loader plans ahead of the batches it has delivered
                yield from self.deal(planned[0], rank, world_size)

        filler = _Filler(
            self.renderer, list(self.config.sources.values()), self.names, self.config
        )
        batches = load(order(), filler, workers=self.config.workers)
        num_micro = per_rank // self.config.micro_batch_size
        while True:
            micro_batches = [next(batches) for _ in range(num_micro)]
            rows, mixture, after = plans.popleft()
            yield StepBatches(
                micro_batches, self._counts(rows), self._levels(mixture), after
            )

    def windows(
        self, state: dict[str, Any] | None
    ) -> Iterator[tuple[list[Row], MixtureState, dict[str, Any]]]:
        """(rows of a step over all ranks, mixture after their window, state after the
        step), from `state` on."""
        mixture, used = self._resumed(state) if state else (self.mixture.start(), 0)
        rows: list[Row] = []
        while True:
            terms = self.mixture.terms(mixture)
            window = self.mixture.window(mixture, terms)
            begun = {
                "mixture": mixture.to_json(),
                "terms": asdict(terms),
                "data": self.data,
            }
            while used < len(window.rows):
                taken = window.rows[used : used + self.config.batch_size - len(rows)]
                rows = rows + taken
                used = used + len(taken)
                if len(rows) == self.config.batch_size:
                    yield rows, window.after, begun | {"row": used}
                    rows = []
            mixture = window.after
            used = 0

    def _resumed(self, state: dict[str, Any]) -> tuple[MixtureState, int]:
        """The state of a window and how many of its rows have been used.

        Under other terms than it was begun under, the rest of a window is not used: its
        documents are planned anew.

        Raises:
            ConfigError: a source's documents, or how they are rendered, are not what
                they were.
        """
        data: dict[str, dict[str, Any]] = state["data"]
        for name, then in data.items():
            now = self.data.get(name, then)
            if changed := {
                what: (then[what], now[what])
                for what in then
                if then[what] != now[what]
            }:
                raise ConfigError(
                    f"loader.sources.{name} is not what it was when the run stopped"
                    f" (then, now): {changed}; give new documents a source of their"
                    " own, and keep the seed and the tokens of an image"
                )
        mixture = MixtureState.from_json(state["mixture"])
        terms = Terms(**state["terms"])
        used = state["row"]
        if terms == self.mixture.terms(mixture):
            return mixture, used
        return (
            self.mixture.window(mixture, terms).hand_back(used, self.mixture.names),
            0,
        )

    def _counts(self, rows: list[Row]) -> dict[str, int]:
        """Of a step over all ranks; a document counts where it begins, `cuts` are the
        pieces that go on with one."""
        excerpts = [excerpt for row in rows for excerpt in row]
        counts = {
            "tokens": len(rows) * self.config.sequence_length,
            "useful": 0,
            "documents": 0,
            "cuts": 0,
            "images": 0,
        }
        counts |= {f"tokens/{name}": 0 for name in self.names}
        for e in excerpts:
            counts["useful"] += e.stop - e.start
            counts[f"tokens/{self.names[e.source]}"] += e.stop - e.start
            counts["documents" if e.start == 0 else "cuts"] += 1
            counts["images"] += e.images
        return counts

    def _levels(self, state: MixtureState) -> dict[str, int | float]:
        sizes = {
            name: max(1, source.num_documents) for name, source in self.sources.items()
        }
        epochs = {
            f"epoch/{name}": round(state.drawn[name] / size, 4)
            for name, size in sizes.items()
        }
        return epochs | {f"skipped/{name}": state.skipped[name] for name in self.names}

    def deal(self, rows: list[Row], rank: int, world_size: int) -> list[list[Row]]:
        """This rank's rows in micro-batches; those of all ranks hold nearly equal
        numbers of images."""
        images = [sum(e.images for e in row) for row in rows]
        hands = deal(
            images, len(rows) // self.config.micro_batch_size, rank, world_size
        )
        return [[rows[i] for i in hand] for hand in hands]

    def describe(self) -> dict[str, dict[str, int | float]]:
        weights = self.config.weights
        return {
            name: source.describe() | {"weight": weights[name]}
            for name, source in self.sources.items()
        }

    def validation(self, *, rank: int, world_size: int) -> Iterator[PackedBatch]:
        """Source by source; a batch holds `micro_batch_size` rows of one source."""
        for name, folder in self.config.sources.items():
            if not Shards.has_split(Path(folder), "validation"):
                continue
            rows = self._validation_rows(Prepared(folder, self.renderer, "validation"))
            filler = _Filler(
                self.renderer, [folder], (name,), self.config, split="validation"
            )
            step = self.config.micro_batch_size
            chunks = [rows[i : i + step] for i in range(0, len(rows), step)]
            chunks += [[]] * (
                -len(chunks) % world_size
            )  # empty batches keep the ranks in step
            for chunk in chunks[rank::world_size]:
                yield filler(chunk)

    def _validation_rows(self, held: Prepared) -> list[Row]:
        """All documents that are held out of a source, each once."""
        caps = {
            "sequence_length": self.config.sequence_length,
            "max_images": self.mixture.max_images,
        }
        misfit = never_fits(held.lengths, held.num_views, **caps)
        excerpts = []
        for d, whole in enumerate(
            zip(held.lengths.tolist(), held.num_views.tolist(), strict=True)
        ):
            pieces = held.pieces(d, **caps) if misfit[d] else [(0, *whole)]
            excerpts += [Excerpt(0, d, *piece) for piece in pieces]
        _, _, starts, stops, images = (
            np.array(excerpts, dtype=np.int64).reshape(-1, 5).T
        )
        planned = plan(stops, images, starts=starts, **caps)
        rows: list[tuple[Piece, ...]] = list(planned.rows)
        for piece in planned.left_over:
            cuts = range(piece.start, piece.stop, self.config.sequence_length)
            rows += [
                (
                    Piece(
                        piece.document,
                        a,
                        min(a + self.config.sequence_length, piece.stop),
                    ),
                )
                for a in cuts
            ]
        return [
            tuple(
                excerpts[p.document]._replace(start=p.start, stop=p.stop) for p in row
            )
            for row in rows
        ]


class _Filler(Dataset):
    """Rows of excerpts -> a batch; runs in workers, which open the shards for
    themselves."""

    def __init__(
        self,
        renderer: Renderer,
        folders: list[str],
        names: tuple[str, ...],
        config: PackedLoader.Config,
        split: str = "train",
    ) -> None:
        self.renderer = renderer
        self.folders = folders
        self.names = names
        self.sequence_length = config.sequence_length
        self.isolate = config.isolate
        self.split = split
        self.shards: list[Shards] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"shards": None}

    def __getitem__(self, rows: list[Row]) -> PackedBatch:
        return self(rows)

    def __call__(self, rows: Any) -> PackedBatch:
        if self.shards is None:
            self.shards = [Shards(Path(folder), self.split) for folder in self.folders]
        spans = [[self._span(excerpt) for excerpt in row] for row in rows] or [[]]
        return collate(
            spans,
            self.renderer,
            sequence_length=self.sequence_length,
            source_names=self.names,
            isolate=self.isolate,
        )

    def _span(self, e: Excerpt) -> Span:
        assert self.shards is not None
        key, document = self.shards[e.source].read(e.document)
        return Span(
            self.renderer(document),
            e.start,
            e.stop,
            e.source,
            f"{self.names[e.source]} {key}",
        )


def _check_split(image_processor: ImageProcessor) -> None:
    """Raises ConfigError for split options that contradict one another or the encoder's
    resize mode."""
    low = image_processor.min_tiles
    high = image_processor.max_tiles
    limits = f"loader.min_tiles={low} and loader.max_tiles={high}"
    if not 1 <= low <= high:
        raise ConfigError(
            f"{limits}: the minimum must be at least 1, and at most the maximum"
        )
    split_last = image_processor.split_last
    if split_last is not None and split_last < 1:
        raise ConfigError(
            f"loader.split_last={split_last} must be at least 1; loader.max_tiles=1"
            " splits no image"
        )
    if not image_processor.allowed_grids():
        raise ConfigError(
            "loader.split=square makes 1, 4, 9, 16 ... tiles, none of them within"
            f" {limits}; widen these, or set loader.split=dynamic"
        )
    if image_processor.split == "dynamic" and image_processor.resize == "crop":
        raise ConfigError(
            "loader.split=dynamic keeps whole images in their aspect ratio, but the"
            " encoder crops them; set loader.resize=pad (or squash), or"
            " loader.split=square"
        )
