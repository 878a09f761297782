"""Tasks of the miniature world (`mm1.miniature.world.questions`), answered by one word.

colour, shape, count, size, digit, word, relation, small digit    about an image
new labels    only the shots, which belong to their question, tell what labels mean
fact, copy    text only
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

from mm1.config import ConfigError, nearest
from mm1.data.document import Document, Image, Text
from mm1.eval.benchmarks import Benchmark, Question, Split
from mm1.eval.metrics import exact_match
from mm1.miniature.world import questions as world
from mm1.miniature.world.examples import TASKS
from mm1.ranges import PositiveInt

NUM_RECORDS = 400
"""Questions of a split."""
WITHOUT_IMAGE = {"fact": world.nth_fact, "copy": world.nth_copy}
NEW_LABELS = "new labels"

# A demonstration is drawn once, not once for each of its questions.
cached_question = lru_cache(maxsize=4_000)(world.nth_question)


class Miniature(Benchmark):
    EXAMPLE: ClassVar[tuple[Split, int]] = ("test", 0)
    """A record is its split and its number."""

    metric = "exact match"

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        task: str = "colour"
        named: bool = True
        """Whether the question tells the task; otherwise only the demonstrations do."""
        grid: Literal["near", "wide"] = "near"
        """Size of the images."""
        max_tokens: PositiveInt = 1
        stop: tuple[str, ...] = ()

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        known = (*TASKS, *WITHOUT_IMAGE, NEW_LABELS)
        if config.task not in known:
            raise ConfigError(
                "the miniature world has no task"
                f" {config.task!r}{nearest(config.task, known)}"
            )
        self.has_choices = config.task not in WITHOUT_IMAGE
        if config.task in TASKS:
            self.chance = 1 / len(TASKS[config.task].answers)
        elif config.task == NEW_LABELS:
            self.chance = 1 / 2
            if (
                config.draws > 1
                or config.retrieval
                or config.same_shots
                or config.chat
            ):
                words = (
                    "draws, retrieval, same_shots and chat do not go"
                    " together with it"
                )
                raise ConfigError(
                    f"the demonstrations of {NEW_LABELS!r} belong to their question:"
                    f" {words}"
                )

    def records(self, split: Split) -> Sequence[tuple[Split, int]]:
        return [(split, n) for n in range(NUM_RECORDS)]

    def question(self, record: tuple[Split, int]) -> Question:
        split, n = record
        c = self.config
        choices: tuple[str, ...] = ()
        if c.task == NEW_LABELS:
            asked = world.nth_new_labels(c.seed, n, 0)[0]
            choices = world.nth_new_names(c.seed, n)
        elif c.task in WITHOUT_IMAGE:
            asked = WITHOUT_IMAGE[c.task](
                c.seed, n if split == "test" else n + NUM_RECORDS
            )
        else:
            asked = cached_question(
                c.seed, c.task, n, split, named=c.named, grid=c.grid
            )
            choices = TASKS[c.task].answers
        return _question(asked, str(n), choices)

    def answer_text(self, question: Question, answer: str) -> Text:
        """As in pages: a space before the answer of a question, none after an image."""
        if self.config.chat:
            return super().answer_text(question, answer)
        follows_words = isinstance(question.prompt.parts[-1], Text)
        return Text(f" {answer}" if follows_words else answer)

    def shots(
        self, question: Question, number: int, num_shots: int, draw: int = 0
    ) -> list[Document]:
        if self.config.task != NEW_LABELS:
            return super().shots(question, number, num_shots, draw)
        episode = world.nth_new_labels(self.config.seed, number, num_shots)
        return [
            self.demonstration(
                _question(each, question.id, question.choices), key
            )
            for key, each in enumerate(episode[:num_shots])
        ]

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            exact_match(*pair, normalise=False)
            for pair in zip(predictions, answers, strict=True)
        ]


def _question(
    asked: world.WorldQuestion, name: str, choices: tuple[str, ...]
) -> Question:
    shown = asked.image
    image = (
        () if shown is None else (Image(shown.png, shown.width, shown.width),)
    )
    words = (Text(asked.prompt),) if asked.prompt else ()
    return Question(Document((*image, *words)), (asked.answer,), name, choices)
