"""What a mixture remembers: what it has drawn, what it owes, and under which terms a
window was planned."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

Unit = Literal["tokens", "documents", "rows"]
"""What weights are shares of. A document counts as much of "rows" as it takes of a row:
the larger of its share of the row's tokens and its share of the row's images."""


class Excerpt(NamedTuple):
    """Tokens `start` to `stop` (exclusive) of a rendered document; the source by its
    place in `Mixture.names`."""

    source: int
    document: int
    start: int
    stop: int
    images: int
    """As the encoder sees them: sub-images count."""


Row = tuple[Excerpt, ...]

Waiting = tuple[str, int, int, int, int]
"""An excerpt that waits for a row, with the name of its source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What a window is planned under. It is planned again under the same when a run
    resumes in its middle."""

    weights: dict[str, float]
    """Of the sources that are drawn from; they sum to 1."""
    weights_of: Unit
    num_rows: int
    sequence_length: int
    max_images: int

    @property
    def amount_of_a_row(self) -> int:
        """What a full row counts for at least, in whole numbers."""
        whole = {
            "tokens": self.sequence_length,
            "documents": 1,
            "rows": self.sequence_length * max(1, self.max_images),
        }
        return whole[self.weights_of]

    @property
    def unit(self) -> str:
        """What is counted: debts in another unit cannot be paid in this one."""
        of_rows = f"rows of {self.sequence_length} tokens and {self.max_images} images"
        return of_rows if self.weights_of == "rows" else self.weights_of


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureState:
    """All that a run must remember of its data between windows. Sources are named, so
    that their order may change."""

    window: int
    """Number of the next window."""
    rows: int
    """Rows of all windows before it."""
    drawn: dict[str, int]
    """Documents taken from each source so far, skipped ones included; divided by its
    size: epochs."""
    skipped: dict[str, int]
    """Documents among them that fit no row, even cut; counted each time they came
    up."""
    debt: dict[str, float]
    """How much each source is behind its share (negative: ahead), in `unit`."""
    unit: str
    carried: list[Waiting]
    """What was taken and not yet placed in a row."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> "MixtureState":
        return MixtureState(
            **{**value, "carried": [tuple(piece) for piece in value["carried"]]}
        )


@dataclass(frozen=True, slots=True)
class Window:
    """Rows of one window in training order, and the state after it."""

    number: int
    rows: list[Row]
    after: MixtureState

    def hand_back(self, used: int, names: list[str]) -> MixtureState:
        """The state after the first `used` rows alone: the others' documents wait to be
        planned anew."""
        unused = [(names[e.source], *e[1:]) for row in self.rows[used:] for e in row]
        rows = self.after.rows - len(self.rows) + used
        return replace(self.after, rows=rows, carried=[*self.after.carried, *unused])
