"""What a benchmark is: raw records, how one becomes a question, and how answers are
scored.

To add one, add a file to this folder with a subclass of `Benchmark`: it then runs with
`benchmarks.NAME=<file>`, and
`tests/eval/test_benchmarks.py` covers it. Which records are asked, which demonstrations
precede them and how a prompt is put together is decided here, alike for all:

    2 shots   <image>Question: what is it? Short answer: a cat
              <image>Question: how many? Short answer: 3
              <image>Question: what colour? Short answer:
    0 shots   <image>Question: what colour? Short answer:
    0 shots   Question: what is it? Short answer: a cat
              Question: how many? Short answer: 3
              <image>Question: what colour? Short answer:

After fine-tuning, with `chat`, each question is a user's turn as
`mm1.prepare.sources.instructions` lays it out, and each demonstration's answer has its
end token.

0 shots have two meanings, and their numbers differ: no demonstrations at all, or, as in
Flamingo (Alayrac et al. 2022, arXiv:2204.14198), two without their pictures.
`zero_shot` says which; scores and tables name it.
"""

import base64
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.image_processing import ImageError, image_size
from mm1.eval.evaluator import Evaluator, Line, Split, gather, share
from mm1.eval.rices import Pictures, Rices, open_rices
from mm1.infer.predictor import Predictor
from mm1.infer.trained import Trained
from mm1.nn.model import Model

__all__ = ["PIXEL", "ZERO_SHOT", "Benchmark", "Question", "Split", "picture"]

ZERO_SHOT = {
    "none": "no demonstrations",
    "text_only": "two demonstrations without pictures",
}
"""What 0 shots may mean, in the words of tables."""
NUM_TEXT_ONLY = 2

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
)
"""The smallest picture, for an `EXAMPLE`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what people answered."""

    prompt: Document
    answers: tuple[str, ...]
    """All that the score compares with: several captions, the answers of ten
    annotators, or the one truth."""
    id: str

    @property
    def answer(self) -> str:
        """The answer that a demonstration gives: the most frequent one, of equals the
        first."""
        return Counter(answer for answer in self.answers if answer.strip()).most_common(
            1
        )[0][0]


class Benchmark(Evaluator):
    """Questions with a score. Records are small; a picture is read only when its
    question is asked."""

    EXAMPLE: ClassVar[Any]
    """One raw record that `question` accepts without any file: the documentation of a
    record, and its test."""

    ANSWER: ClassVar[str] = " {}\n"
    """How an answer stands behind its question in a demonstration; what follows the
    answer is a stop string."""

    needs = {"prefill": "a language model"}

    @dataclass(kw_only=True, slots=True)
    class Config(Evaluator.Config):
        max_tokens: int = 16
        """Tokens of an answer at most."""
        stop: tuple[str, ...] = ("\n",)
        """Strings that end an answer; the end token always does."""
        chat: bool = False
        """Are questions asked as the turns of a conversation, as a fine-tuned model
        knows them?"""
        zero_shot: Literal["none", "text_only"] = "none"
        """What 0 shots mean: no demonstrations, or two without their pictures."""
        draws: int = 1
        """How often everything is asked, each time after other demonstrations; the
        score is the mean."""
        same_shots: bool = False
        """Are all questions of a draw asked after the same demonstrations? They are
        then read once for all."""
        retrieval: str = ""
        """A run folder with an image encoder: demonstrations are then those whose
        pictures look most like the question's (see `rices`), not drawn at random."""

        def build(self) -> "Benchmark":
            return self.make()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.rices: Rices | None = None
        """Finds the shots where `retrieval` names a run folder; opened by `check`."""
        self.kept: dict[int, Document] = {}
        """Train record -> demonstration, where `same_shots` brings it again and
        again."""
        if config.draws < 1:
            raise ConfigError(
                f"draws={config.draws}: everything is asked at least once"
            )
        if config.draws > 1 and config.retrieval:
            raise ConfigError(
                f"draws={config.draws}, but shots that retrieval={config.retrieval}"
                " finds are not drawn"
            )
        if config.same_shots and config.retrieval:
            raise ConfigError(
                f"same_shots=True, but retrieval={config.retrieval} finds shots for"
                " each question"
            )

    def check(self, model: Model) -> None:
        super().check(model)
        if self.config.retrieval and self.rices is None:
            self.rices = open_rices(Path(self.config.retrieval))

    def question(self, record: Any) -> Question:
        raise NotImplementedError

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        """The score of each prediction against its question's answers; the benchmark's
        score is their mean.

        It is given all questions at once, because a score such as CIDEr depends on all
        of them.
        """
        raise NotImplementedError

    def asked(self, record: Any) -> Question:
        """The question as this benchmark's layout has it."""
        question = self.question(record)
        return (
            replace(question, prompt=_turn(question.prompt))
            if self.config.chat
            else question
        )

    def shot(self, record: Any) -> Document:
        """A record as a demonstration: the question and its answer."""
        question = self.asked(record)
        said = (
            Text(question.answer, end=True)
            if self.config.chat
            else Text(self.ANSWER.format(question.answer))
        )
        return question.prompt + Document((said,))

    def prompt(self, question: Question, shots: Sequence[Document]) -> Document:
        """The demonstrations, then the question, with nothing between them."""
        return sum(shots, Document(())) + question.prompt

    def learns(self, num_shots: int) -> bool:
        return num_shots > 0 or self.config.zero_shot == "text_only"

    def num_draws(self, num_shots: int) -> int:
        return self.config.draws if self.learns(num_shots) else 1

    def zero_shot(self, num_shots: int) -> str | None:
        return None if num_shots else ZERO_SHOT[self.config.zero_shot]

    def settings(self, num_shots: int) -> str:
        """Draws are asked one by one, so their number may grow; an encoder is known by
        its weights."""
        meaning = "none" if num_shots else self.config.zero_shot
        retrieved = (
            self.rices.version
            if self.rices is not None and self.learns(num_shots)
            else ""
        )
        return configs.to_text(
            replace(
                self.config, shots=None, draws=1, zero_shot=meaning, retrieval=retrieved
            )
        )

    def picture_name(self, record: Any) -> Hashable:
        """Equal for records with the same picture, which is then looked at once where
        shots are retrieved."""
        return record

    def prepare(self, num_shots: int, advance: Callable[[int, int], object]) -> None:
        """Looks at the pictures that shots are retrieved by, once."""
        if (
            self.rices is None
            or self.rices.train is not None
            or not self.learns(num_shots)
        ):
            return
        if not self.train:
            raise ConfigError("there are no train records to retrieve shots from")
        train, test = (
            Pictures(
                list(map(self.picture_name, records)), partial(self._picture, records)
            )
            for records in (self.train, self.test)
        )
        self.rices.look(train, test, self.chosen, advance)

    def _picture(self, records: Sequence[Any], number: int) -> Image:
        question = self.asked(records[number])
        if not question.prompt.images:
            raise ConfigError(
                f"retrieval={self.config.retrieval}: {question.id} has no picture that"
                " others are like"
            )
        return question.prompt.images[0]

    def shots(
        self, question: Question, number: int, num_shots: int, draw: int = 0
    ) -> list[Document]:
        """Demonstrations for a question: at random by seed, test record's number and
        draw, or the nearest retrieved.

        With `same_shots` the number does not count: all have the same, but questions
        that one would give away.

        Fewer are the beginning of more; of retrieved ones, the end, for the nearest
        stands next to the question. A record with a picture of the question, or with
        the very same question, never demonstrates.

        Raises:
            ConfigError: the train split has too few records.
        """
        shots: list[Document] = []
        candidates = (
            self._at_random(number, draw)
            if self.rices is None
            else self.rices.nearest(number)
        )
        while len(shots) < num_shots:
            if (candidate := next(candidates, None)) is None:
                raise ConfigError(
                    f"{num_shots} shots asked for, but {len(shots)} train records fit"
                    f" {question.id}"
                )
            shot = self._shot(candidate)
            if not _gives_away(shot, question):
                shots.append(shot)
        return shots if self.rices is None else shots[::-1]

    def _shot(self, candidate: int) -> Document:
        """A train record as a demonstration; those that come again for every question
        are kept."""
        if not self.config.same_shots:
            return self.shot(self.train[candidate])
        if candidate not in self.kept:
            self.kept[candidate] = self.shot(self.train[candidate])
        return self.kept[candidate]

    def _at_random(self, number: int, draw: int) -> Iterator[int]:
        """All train records, in an order that belongs to a test record."""
        rng = np.random.default_rng(
            (self.config.seed, 0 if self.config.same_shots else number, draw)
        )
        tried: set[int] = set()
        while len(tried) < len(self.train):
            drawn = int(rng.integers(len(self.train)))
            if drawn not in tried:
                tried.add(drawn)
                yield drawn

    def ask(
        self,
        trained: Trained,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        predictor = Predictor.of(trained)
        lines = []
        for numbers in share(self.chosen):
            asked = [self._asked(number, num_shots, draw) for number in numbers]
            texts = self._answers(predictor, asked)
            lines += [
                {
                    "id": question.id,
                    "prompt": prompt.text,
                    "answers": question.answers,
                    "prediction": text.strip(),
                }
                for (question, prompt), text in zip(asked, texts, strict=True)
            ]
            advance(len(asked))
        lines = gather(lines)
        scores = self.score(
            [line["prediction"] for line in lines], [line["answers"] for line in lines]
        )
        return [
            line | {"score": float(score)}
            for line, score in zip(lines, scores, strict=True)
        ]

    def _answers(
        self, predictor: Predictor, asked: Sequence[tuple[Question, Document]]
    ) -> list[str]:
        c = self.config
        prompts = [prompt for _, prompt in asked]
        if not c.same_shots:
            return predictor.generate(prompts, max_tokens=c.max_tokens, stop=c.stop)
        begins = [
            prompt.parts[: -len(question.prompt.parts)] for question, prompt in asked
        ]
        usual = Counter(begins).most_common(1)[0][0] if begins else ()
        answers = [""] * len(asked)
        for shared in (
            True,
            False,
        ):  # all ranks make both calls, whatever they have to ask
            some = [i for i, begin in enumerate(begins) if (begin == usual) == shared]
            texts = predictor.generate(
                [prompts[i] for i in some],
                max_tokens=c.max_tokens,
                stop=c.stop,
                shared=shared,
            )
            for i, text in zip(some, texts, strict=True):
                answers[i] = text
        return answers

    def pictures(self, number: int, num_shots: int) -> Sequence[Image]:
        """Those of the first draw."""
        return self._asked(number, num_shots, 0)[1].images

    def _asked(
        self, number: int, num_shots: int, draw: int
    ) -> tuple[Question, Document]:
        """A test record's question, and the prompt that it becomes."""
        question = self.asked(self.test[number])
        if num_shots or not self.learns(0):
            shots = self.shots(question, number, num_shots, draw)
        else:
            shots = [
                _without_pictures(shot)
                for shot in self.shots(question, number, NUM_TEXT_ONLY, draw)
            ]
        return question, self.prompt(question, shots)


def _turn(prompt: Document) -> Document:
    """A user's turn: a line break ends it, and nothing of it is learnt from in
    fine-tuning."""
    *parts, last = (
        replace(part, loss=False) if isinstance(part, Text) else part
        for part in prompt.parts
    )
    if isinstance(last, Text):
        last = replace(last, content=last.content.rstrip("\n") + "\n")
    return Document((*parts, last))


def _without_pictures(shot: Document) -> Document:
    return Document(tuple(part for part in shot.parts if isinstance(part, Text)))


def _gives_away(shot: Document, asked: Question) -> bool:
    seen = {image.data for image in asked.prompt.images}
    same_question = shot.parts[: len(asked.prompt.parts)] == asked.prompt.parts
    return same_question or any(image.data in seen for image in shot.images)


def picture(source: Path | bytes, owner: str) -> Image:
    """The picture of a record: encoded bytes, or a file that holds them.

    Raises:
        FileNotFoundError: there is no such file; `owner`, the question's name, is part
            of the message.
        ImageError: it is no picture.
    """
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        width, height = image_size(data)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{owner}: no picture at {source}") from error
    except ImageError as error:
        raise ImageError(
            f"{owner}: {'its picture' if isinstance(source, bytes) else source}:"
            f" {error}"
        ) from error
    return Image(data, width, height)
