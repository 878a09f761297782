"""What a mixture remembers between windows, and the settings a window is planned
with."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

WeightUnit = Literal["tokens", "documents", "rows"]
"""What weights are shares of. In "rows" a document counts as the part of a row that it
takes: the larger of its share of the row's tokens and of the row's images."""


class DocumentSegment(NamedTuple):
    """Tokens `start` to `stop` (exclusive) of a rendered document of a source."""

    source: int
    """Index in `Mixture.names`."""
    document: int
    start: int
    stop: int
    images: int
    """Sub-images count."""


Row = tuple[DocumentSegment, ...]
"""A packed sequence."""

CarriedSegment = tuple[str, int, int, int, int]
"""A `DocumentSegment` that has not found a row yet, with the name of its source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowSettings:
    """What a window is planned with. A run that resumes inside a window plans it again
    with the same settings."""

    weights: dict[str, float]
    """Of the sources that are read; they sum to 1."""
    weights_of: WeightUnit
    num_rows: int
    sequence_length: int
    max_images: int

    @property
    def amount_per_row(self) -> int:
        """What a full row counts at least, in the integers of
        `SegmentTable.amounts`."""
        amounts = {
            "tokens": self.sequence_length,
            "documents": 1,
            "rows": self.sequence_length * max(1, self.max_images),
        }
        return amounts[self.weights_of]

    @property
    def unit(self) -> str:
        """The unit of deficits; a deficit in another unit cannot be made up."""
        if self.weights_of == "rows":
            return f"rows of {self.sequence_length} tokens and {self.max_images} images"
        return self.weights_of


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureState:
    """All that a run must remember of its data between windows. Sources are named, so
    their order may change."""

    window: int
    """Number of the next window."""
    rows: int
    """Rows of all windows before it."""
    drawn: dict[str, int]
    """Documents taken from each source so far, skipped ones included; divided by its
    size: epochs."""
    skipped: dict[str, int]
    """Documents among them that fit no row, even cut; counted each time they come
    up."""
    deficit: dict[str, float]
    """How far each source is behind its share (negative: ahead), in `unit`."""
    unit: str
    carried: list[CarriedSegment]
    """Segments drawn and not yet placed in a row."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "MixtureState":
        carried = [tuple(segment) for segment in value["carried"]]
        return MixtureState(**{**value, "carried": carried})


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of one window in training order, and the state after it."""

    number: int
    rows: list[Row]
    after: MixtureState

    def state_after(self, num_rows: int, names: list[str]) -> MixtureState:
        """The state after the first `num_rows` rows; the segments of the other rows are
        carried over, to be planned again."""
        unused = [
            (names[segment.source], *segment[1:])
            for row in self.rows[num_rows:]
            for segment in row
        ]
        rows = self.after.rows - len(self.rows) + num_rows
        return replace(
            self.after, rows=rows, carried=[*self.after.carried, *unused]
        )
