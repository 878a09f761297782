"""What a benchmark is: raw records, how one becomes a question, and how answers are scored.

To add one, add a file to this folder with a subclass of `Benchmark`: it then runs with
`benchmarks.NAME=mm1.eval.benchmarks.<file>:<Class>`, and `tests/eval/test_benchmarks.py` covers it. Which records are
asked, which demonstrations precede them and how a prompt is put together is decided here, alike for all:

    2 shots   <image>Question: what is it? Short answer: a cat
              <image>Question: how many? Short answer: 3
              <image>Question: what colour? Short answer:
    0 shots   <image>Question: what colour? Short answer:

0 shots means no demonstrations at all. (Flamingo's "0-shot" shows two without their pictures; its numbers differ.)
"""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mm1.config import ConfigError, Configurable
from mm1.data.document import Document, Image, Text
from mm1.data.images import ImageError, probe

Split = Literal["train", "test"]

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC")
"""The smallest picture, for an `EXAMPLE`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what people answered."""

    prompt: Document
    answers: tuple[str, ...]
    """All that the score compares with: several captions, the answers of ten annotators, or the one truth."""
    id: str

    @property
    def answer(self) -> str:
        """The answer that a demonstration gives: the most frequent one, of equals the first."""
        return Counter(answer for answer in self.answers if answer.strip()).most_common(1)[0][0]


class Benchmark(Configurable):
    """Questions with a score. Records are small; a picture is read only when its question is asked."""

    EXAMPLE: ClassVar[Any]
    """One raw record that `question` accepts without any file: the documentation of a record, and its test."""

    ANSWER: ClassVar[str] = " {}\n"
    """How an answer stands behind its question in a demonstration; what follows the answer is a stop string."""

    metric: str
    chance: float | None = None
    """The score of blind guessing, where it is known."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        num_questions: int | None = None
        """Test records that are asked, drawn by `seed`; None: all. Fewer are a subset of more."""
        shots: tuple[int, ...] | None = None
        """Demonstrations in the prompt; None: as many as the run asks everything with."""
        seed: int = 0
        max_tokens: int = 16
        """Tokens of an answer at most."""
        stop: tuple[str, ...] = ("\n",)
        """Strings that end an answer; the end token always does."""

        def build(self) -> "Benchmark":
            return self.make()

    def __init__(self, config: Config) -> None:
        self.config = config

    def records(self, split: Split) -> Sequence[Any]:
        """The raw records: of `test`, to be asked; of `train`, to demonstrate. Asked for once."""
        raise NotImplementedError

    def question(self, record: Any) -> Question:
        raise NotImplementedError

    def score(self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]) -> Sequence[float]:
        """The score of each prediction against its question's answers; the benchmark's score is their mean.

        It is given all questions at once, because a score such as CIDEr depends on all of them.
        """
        raise NotImplementedError

    def shot(self, record: Any) -> Document:
        """A record as a demonstration: the question and its answer."""
        question = self.question(record)
        return question.prompt + Document((Text(self.ANSWER.format(question.answer)),))

    def prompt(self, question: Question, shots: Sequence[Document]) -> Document:
        """The demonstrations, then the question, with nothing between them."""
        return sum(shots, Document(())) + question.prompt

    @cached_property
    def test(self) -> Sequence[Any]:
        return self.records("test")

    @cached_property
    def train(self) -> Sequence[Any]:
        return self.records("train")

    @cached_property
    def chosen(self) -> list[int]:
        """Which test records are asked, in the order of the records."""
        order = np.random.default_rng(self.config.seed).permutation(len(self.test))
        return sorted(order[: self.config.num_questions].tolist())

    def shots(self, question: Question, number: int, num_shots: int) -> list[Document]:
        """Demonstrations for a question, drawn at random from the train split by the seed and the test record's number.

        Fewer are the beginning of more. A record with a picture of the question, or with the very same question, never
        demonstrates.

        Raises:
            ConfigError: the train split has too few records.
        """
        rng = np.random.default_rng((self.config.seed, number))
        tried: set[int] = set()
        shots: list[Document] = []
        while len(shots) < num_shots:
            if len(tried) == len(self.train):
                raise ConfigError(f"{num_shots} shots asked for, but {len(shots)} train records fit {question.id}")
            drawn = int(rng.integers(len(self.train)))
            if drawn in tried:
                continue
            tried.add(drawn)
            shot = self.shot(self.train[drawn])
            if not _gives_away(shot, question):
                shots.append(shot)
        return shots


def _gives_away(shot: Document, asked: Question) -> bool:
    seen = {image.data for image in asked.prompt.images}
    same_question = shot.parts[: len(asked.prompt.parts)] == asked.prompt.parts
    return same_question or any(image.data in seen for image in shot.images)


def picture(source: Path | bytes, owner: str) -> Image:
    """The picture of a record: encoded bytes, or a file that holds them.

    Raises:
        FileNotFoundError: there is no such file; `owner`, the question's name, is part of the message.
        ImageError: it is no picture.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        width, height = probe(data)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{owner}: no picture at {source}") from error
    except ImageError as error:
        raise ImageError(f"{owner}: {'its picture' if isinstance(source, bytes) else source}: {error}") from error
    return Image(data, width, height)
