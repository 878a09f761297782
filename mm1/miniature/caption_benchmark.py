"""Captions of the miniature world's test images.

The score is the number of right words divided by the length of the longer caption, the
model's or the true one: a missing word costs as much as an extra one. Their order does
not matter, except for images of four objects, where a word must be at its position.
There is no chance level, since nobody knows what a model says that sees nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq
from typing import ClassVar

from mm1.data.document import Document, Image
from mm1.eval.benchmarks import Benchmark, Question, Split
from mm1.miniature.world import questions as world
from mm1.ranges import PositiveInt

NUM_RECORDS = 400
"""Images of a split."""


class MiniatureCaptions(Benchmark):
    EXAMPLE: ClassVar[tuple[Split, int]] = ("test", 0)
    """A record is its split and its number."""
    ANSWER = "{}"

    metric = "words right"

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        four: bool = False
        """Whether images show four objects, described by eight words in reading
        order."""
        max_tokens: PositiveInt = 6
        """The longest captions have four words; those of four objects have eight."""

    config: Config

    def records(self, split: Split) -> Sequence[tuple[Split, int]]:
        return [(split, n) for n in range(NUM_RECORDS)]

    def question(self, record: tuple[Split, int]) -> Question:
        split, n = record
        asked = (
            world.nth_four_description
            if self.config.four
            else world.nth_description
        )(self.config.seed, n, split)
        assert asked.image is not None
        image = Image(asked.image.png, asked.image.width, asked.image.width)
        return Question(Document((image,)), (asked.answer,), str(n))

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        right = _in_place if self.config.four else _overlap
        return [
            right(said, *true)
            for said, true in zip(predictions, answers, strict=True)
        ]


def _in_place(said: str, true: str) -> float:
    a = said.split()
    b = true.split()
    return sum(map(eq, a, b)) / max(len(a), len(b))


def _overlap(said: str, true: str) -> float:
    a = Counter(said.split())
    b = Counter(true.split())
    return (a & b).total() / max(a.total(), b.total())
