"""Windows of packed rows from a weighted mixture of sources; what comes next depends on
the seed and a small state alone.

A window takes the next documents of the merged stream (`mm1.loader.source_streams`) and
packs them, with what earlier windows left over, into a fixed number of rows. It stops
taking when it has the tokens or the images of its rows. Where images are the limit (a
mixture with more images than its rows may hold), rows end in padding: filling them
would take more text than the weights allow, and the weights win.

How far a source is behind or ahead of its share is kept when weights change.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mm1.config import ConfigError
from mm1.loader.mixture_state import (
    CarriedSegment,
    DocumentSegment,
    MixtureState,
    WeightUnit,
    Window,
    WindowSettings,
)
from mm1.loader.packing import never_fits, pack_documents
from mm1.loader.permutation import permute
from mm1.loader.source_streams import SegmentTable, SourceLengths, SourceStreams

SEGMENTS_PER_ROW = 64
"""Segments of a cut text are at least 1/64 of a row: 64 of 4,096 tokens. A fixed 64
would waste 4% of rows of 512."""


class Mixture:
    """Plans windows of packed rows; the same on every rank.

    `weights` are shares of `weights_of` (of what is drawn: padding does not count) and
    sum to 1; a source of weight 0 is not read. `schedule` gives other weights from a
    row on, counted over all windows: a window ends before it.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceLengths],
        weights: Mapping[str, float],
        *,
        sequence_length: int,
        max_images: int,
        packing_window: int,
        seed: int,
        weights_of: WeightUnit = "tokens",
        schedule: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        self.schedule = {0: weights} | dict(schedule or {})
        for row, shares in self.schedule.items():
            _check_weights(sources, shares, row)
        self.names = list(sources)
        self.streams = SourceStreams(sources, seed)
        self.sequence_length = sequence_length
        self.max_images = max_images
        self.packing_window = packing_window
        self.seed = seed
        self.weights_of: WeightUnit = weights_of

    def start(self) -> MixtureState:
        """The state before the first window."""
        return MixtureState(
            window=0,
            rows=0,
            drawn=dict.fromkeys(self.names, 0),
            skipped=dict.fromkeys(self.names, 0),
            deficit=dict.fromkeys(self.names, 0.0),
            unit=self._settings_from(0).unit,
            carried=[],
        )

    def settings(self, state: MixtureState) -> WindowSettings:
        """Those of the window that begins at this state."""
        return self._settings_from(state.rows)

    def _settings_from(self, row: int) -> WindowSettings:
        weights = self.schedule[
            max(start for start in self.schedule if start <= row)
        ]
        total = sum(weights.values())
        until_next = [start - row for start in self.schedule if start > row]
        return WindowSettings(
            weights={
                name: weight / total
                for name, weight in weights.items()
                if weight > 0
            },
            weights_of=self.weights_of,
            num_rows=min([self.packing_window, *until_next]),
            sequence_length=self.sequence_length,
            max_images=self.max_images,
        )

    def window(
        self, state: MixtureState, settings: WindowSettings | None = None
    ) -> Window:
        """Draws the next documents, packs them into rows and shuffles the rows.

        `settings` are by default this mixture's at that state; others are given to plan
        a window again that was begun with them.

        Raises:
            ConfigError: the state has a source that the mixture lacks, or carried
                segments that fit no row.
        """
        state = self._with_new_sources(state)
        settings = settings or self.settings(state)
        num_rows = settings.num_rows
        carried = self._carried(state, settings)
        fresh = self.streams.draw(
            state.drawn,
            self._deficit(state, settings),
            settings,
            max_tokens=num_rows * settings.sequence_length
            - int(carried.tokens.sum()),
            max_images=num_rows * settings.max_images
            - int(carried.images.sum()),
        )
        pool = SegmentTable.concatenate([carried, fresh])
        packed = pack_documents(
            pool.stop,
            pool.images,
            sequence_length=settings.sequence_length,
            max_images=settings.max_images,
            num_rows=num_rows,
            min_segment=max(1, settings.sequence_length // SEGMENTS_PER_ROW),
            starts=pool.start,
            num_carried=len(carried.source),
        )
        source = pool.source.tolist()
        document = pool.document.tolist()
        images = pool.images.tolist()
        order = permute(
            np.arange(num_rows), num_rows, f"{self.seed}/rows/{state.window}"
        )
        rows = [
            tuple(
                DocumentSegment(source[d], document[d], start, stop, images[d])
                for d, start, stop in packed.rows[r]
            )
            for r in order.tolist()
        ]
        left_over = [
            (self.names[source[d]], document[d], start, stop, images[d])
            for d, start, stop in packed.left_over
        ]
        after = self._state_after(state, settings, fresh, left_over)
        return Window(state.window, rows, after)

    def _with_new_sources(self, state: MixtureState) -> MixtureState:
        """The state with sources that were added since; they begin at their first
        document."""
        if lost := sorted(set(state.drawn) - set(self.names)):
            raise ConfigError(
                f"the run has read from {lost}, which the mixture of"
                f" {sorted(self.names)} lacks; to stop reading a source keep it and"
                " give it the weight 0"
            )
        columns = {
            name: getattr(self.start(), name) | getattr(state, name)
            for name in ("drawn", "skipped", "deficit")
        }
        return replace(state, **columns)

    def _carried(
        self, state: MixtureState, settings: WindowSettings
    ) -> SegmentTable:
        """The segments that earlier windows left over."""
        segments = [
            (self.names.index(name), -1, document, start, stop, images)
            for name, document, start, stop, images in state.carried
        ]
        carried = SegmentTable(
            *np.array(segments, dtype=np.int64).reshape(-1, 6).T
        )
        misfits = np.flatnonzero(
            never_fits(
                carried.tokens,
                carried.images,
                settings.sequence_length,
                settings.max_images,
            )
        )
        if len(misfits):
            i = misfits[0]
            raise ConfigError(
                f"source {self.names[carried.source[i]]!r}: a segment of document"
                f" {carried.document[i]} with {carried.tokens[i]} tokens and"
                f" {carried.images[i]} images waits for a row, but rows now hold"
                f" {settings.sequence_length} tokens and {settings.max_images} images;"
                " a run's rows may grow, not shrink"
            )
        return carried

    def _state_after(
        self,
        state: MixtureState,
        settings: WindowSettings,
        fresh: SegmentTable,
        left_over: list[CarriedSegment],
    ) -> MixtureState:
        """Moves each source past the last document taken from it, and updates what it
        has given against its share."""
        drawn = dict(state.drawn)
        skipped = dict(state.skipped)
        deficit = self._deficit(state, settings)
        amounts = fresh.amounts(settings)
        total = int(amounts.sum())
        for s, name in enumerate(self.names):
            own = fresh.source == s
            share = settings.weights.get(name, 0.0) * total
            deficit[name] += share - int(amounts[own].sum())
            if own.any():
                drawn[name] = int(fresh.position[own][-1]) + 1
                num_taken = int((fresh.start[own] == 0).sum())
                skipped[name] += drawn[name] - state.drawn[name] - num_taken
        return MixtureState(
            window=state.window + 1,
            rows=state.rows + settings.num_rows,
            drawn=drawn,
            skipped=skipped,
            deficit=deficit,
            unit=settings.unit,
            carried=left_over,
        )

    def _deficit(
        self, state: MixtureState, settings: WindowSettings
    ) -> dict[str, float]:
        """The state's deficits; none if they are in another unit."""
        if state.unit == settings.unit:
            return dict(state.deficit)
        return dict.fromkeys(self.names, 0.0)


def _check_weights(
    sources: Mapping[str, SourceLengths], weights: Mapping[str, float], row: int
) -> None:
    when = f"from row {row:,} on: " if row else ""
    missing = sorted(set(sources) - set(weights))
    extra = sorted(set(weights) - set(sources))
    if missing or extra:
        raise ConfigError(
            f"{when}sources without a weight: {missing}; weights without a source:"
            f" {extra}"
        )
    total = sum(weights.values())
    if min(weights.values(), default=0) < 0 or not abs(total - 1) <= 1e-6:
        raise ConfigError(
            f"{when}weights must be 0 or more and sum to 1, not {total}:"
            f" {dict(weights)}"
        )
    for name, source in sources.items():
        if weights[name] > 0 and source.num_documents < 1:
            raise ConfigError(f"source {name!r} has no documents")
