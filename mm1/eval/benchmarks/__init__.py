"""The contract of a benchmark: raw records, how one becomes a question, and how answers
are scored.

To add one, add a file to this folder with a subclass of `Benchmark`. It then runs with
`benchmarks.NAME=<file>`, and
`tests/eval/test_benchmarks.py` tests it. Which records are evaluated, which
demonstrations they get and how the prompt is put together is decided here for all:

    2 shots   <image>Question: what is it? Short answer: a cat
              <image>Question: how many? Short answer: 3
              <image>Question: what colour? Short answer:
    0 shots   <image>Question: what colour? Short answer:
    0 shots, zero_shot_prompt=text_only
              Question: what is it? Short answer: a cat
              Question: how many? Short answer: 3
              <image>Question: what colour? Short answer:

Numbers at 0 shots depend on which of these it is: no demonstrations at all, or, as in
Flamingo (Alayrac et al. 2022, arXiv:2204.14198), two without their images. Scores and
tables name it.

With `chat`, for fine-tuned models, each question is a user's turn as laid out by
`mm1.prepare.sources.instructions`, and the answer of each demonstration ends with the
end token.
"""

import base64
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.eval.evaluator import Evaluator, Line, Split
from mm1.eval.question import LABELS, Question, ShotLabels, relabelled
from mm1.eval.rices import RecordImages, Rices, open_rices
from mm1.eval.shots import (
    generate_after_shots,
    random_candidates,
    select_shots,
    user_turn,
    without_images,
)
from mm1.infer.choose import choose
from mm1.infer.packed_predictor import PackedPredictor
from mm1.infer.predictor import Predictor
from mm1.infer.ranks import gather_from_ranks, split_over_ranks
from mm1.infer.trained_model import TrainedModel
from mm1.loader.packed import PackedLoader
from mm1.nn.model import Model
from mm1.ranges import PositiveInt

__all__ = ["PIXEL", "ZERO_SHOT_PROMPTS", "Benchmark", "Question", "Split"]

ZERO_SHOT_PROMPTS = {
    "none": "no demonstrations",
    "text_only": "two demonstrations without pictures",
}
"""What a prompt holds at 0 shots, as tables say it."""
NUM_TEXT_ONLY = 2

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
)
"""The smallest image, for an `EXAMPLE`."""


class Benchmark(Evaluator):
    """Questions answered in words, with a score. Records should be small; an image is
    read only when its question is asked."""

    EXAMPLE: ClassVar[Any]
    """A raw record that `question` accepts without any file: it documents a record and
    is used by the tests."""

    ANSWER: ClassVar[str] = " {}\n"
    """How an answer follows its question in a demonstration; what follows the answer is
    a stop string."""

    has_choices: bool = False
    """Has each question a closed set of answers, `Question.choices`?"""

    needs = {"prefill": "a language model"}

    @dataclass(kw_only=True, slots=True)
    class Config(Evaluator.Config):
        max_tokens: PositiveInt = 16
        """Most tokens of an answer."""
        stop: tuple[str, ...] = ("\n",)
        """Strings that end an answer, as the end token always does."""
        chat: bool = False
        """Lay questions out as turns of a conversation, for fine-tuned models?"""
        zero_shot_prompt: Literal["none", "text_only"] = "none"
        """The demonstrations at 0 shots: none, or two without their images."""
        draws: PositiveInt = 1
        """How many times everything is evaluated, with other demonstrations each time;
        the score is the mean."""
        same_shots: bool = False
        """Use the same demonstrations for all questions of a draw? They are then read
        only once."""
        retrieval: str = ""
        """A run folder with an image encoder: demonstrations are then those with the
        most similar images (`mm1.eval.rices`), not random ones."""
        restricted: bool = False
        """Is the answer the likeliest of the question's choices, in place of whatever
        the model writes?"""
        shot_labels: ShotLabels = "right"
        """The answers that demonstrations show; others than "right" are controls
        (`mm1.eval.controls`)."""
        packed_with: PackedLoader.Config | None = None
        """A training mixture, whose documents stand before each prompt in its row, as
        in training (`mm1.infer.packed_predictor`); None: prompts stand alone."""

        def build(self) -> "Benchmark":
            return self.make()

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        self.rices: Rices | None = None
        """Finds the shots if `retrieval` names a run folder; opened by `check`."""
        self.cached_shots: dict[int, Document] = {}
        """Train record -> demonstration, with `same_shots`."""
        if config.draws > 1 and config.retrieval:
            raise ConfigError(
                f"draws={config.draws} with retrieval={config.retrieval}: retrieved"
                " shots are not random"
            )
        if config.same_shots and config.retrieval:
            raise ConfigError(
                f"same_shots=True with retrieval={config.retrieval}: retrieved shots"
                " differ from question to question"
            )

    # What a benchmark defines, besides `records`, `metric` and `chance` of Evaluator

    def question(self, record: Any) -> Question:
        """A record as a question: its prompt without shots, and its answers."""
        raise NotImplementedError

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        """The score of each prediction against its question's answers.

        It gets all questions at once because a score such as CIDEr depends on all.
        """
        raise NotImplementedError

    def image_key(self, record: Any) -> Hashable:
        """Equal for records with the same image, so that retrieval encodes it once."""
        return record

    # Prompts

    def formatted_question(self, record: Any) -> Question:
        return self.formatted(self.question(record))

    def formatted(self, question: Question) -> Question:
        """The question, in the layout of conversations with `chat`."""
        if not self.config.chat:
            return question
        return replace(question, prompt=user_turn(question.prompt))

    def shot(self, record: Any, key: int = 0) -> Document:
        """A record as a demonstration: the question and its answer. `key` draws a wrong
        answer where `shot_labels` asks for one."""
        return self.demonstration(self.formatted_question(record), key)

    def demonstration(self, question: Question, key: int) -> Document:
        """The question with the answer that `shot_labels` asks for."""
        c = self.config
        shown = relabelled(question, c.shot_labels, (c.seed, key))
        return shown.prompt + Document((self.answer_text(shown, shown.answer),))

    def answer_text(self, question: Question, answer: str) -> Text:
        """An answer as it follows its question."""
        if self.config.chat:
            return Text(answer, end=True)
        return Text(self.ANSWER.format(answer))

    def prompt(self, question: Question, shots: Sequence[Document]) -> Document:
        """The demonstrations, then the question, with nothing between them."""
        return sum(shots, Document(())) + question.prompt

    def shots(
        self, question: Question, number: int, num_shots: int, draw: int = 0
    ) -> list[Document]:
        """Demonstrations for the question of a test record.

        Random ones depend on seed, test record and draw, with `same_shots` on seed and
        draw only. Retrieved ones are the most similar, the nearest last. Fewer shots
        are the first of more (of retrieved ones, the last). A record with an image of
        the question, or with the same question, is never used.

        Raises:
            ConfigError: there are too few train records.
        """
        if not num_shots:
            return []
        if self.rices is not None:
            candidates = self.rices.nearest(number)
        else:
            own = 0 if self.config.same_shots else number
            candidates = random_candidates(
                len(self.train), (self.config.seed, own, draw)
            )
        shots = select_shots(
            candidates, self._shot, question.prompt, num_shots, question.id
        )
        return shots if self.rices is None else shots[::-1]

    def _shot(self, candidate: int) -> Document:
        if not self.config.same_shots:
            return self.shot(self.train[candidate], candidate)
        if candidate not in self.cached_shots:
            self.cached_shots[candidate] = self.shot(
                self.train[candidate], candidate
            )
        return self.cached_shots[candidate]

    def question_and_prompt(
        self, number: int, num_shots: int, draw: int
    ) -> tuple[Question, Document]:
        """The question of a test record, and the whole prompt."""
        question = self.formatted_question(self.test[number])
        if num_shots or not self.uses_train(0):
            shots = self.shots(question, number, num_shots, draw)
        else:
            shots = [
                without_images(shot)
                for shot in self.shots(question, number, NUM_TEXT_ONLY, draw)
            ]
        if self.config.shot_labels == "alone":
            shots = [without_images(shot) for shot in shots]
        elif self.config.shot_labels == "moved":
            question = relabelled(question, "moved", (self.config.seed,))
        return question, self.prompt(question, shots)

    # Evaluator's interface

    def check(self, model: Model) -> None:
        super().check(model)
        c = self.config
        if not self.has_choices and (
            c.restricted or c.shot_labels in ("wrong", "moved")
        ):
            raise ConfigError(
                f"{type(self).__name__} has no closed set of answers, which"
                " restricted=True and shot_labels=wrong or moved need"
            )
        if self.config.retrieval and self.rices is None:
            self.rices = open_rices(Path(self.config.retrieval))

    def uses_train(self, num_shots: int) -> bool:
        return num_shots > 0 or self.config.zero_shot_prompt == "text_only"

    def num_draws(self, num_shots: int) -> int:
        return self.config.draws if self.uses_train(num_shots) else 1

    def describe_zero_shot(self, num_shots: int) -> str | None:
        return (
            None
            if num_shots
            else ZERO_SHOT_PROMPTS[self.config.zero_shot_prompt]
        )

    def describe_control(self, num_shots: int) -> str | None:
        c = self.config
        said = [LABELS[c.shot_labels]] if num_shots else []
        said += ["answers restricted to the choices"] if c.restricted else []
        said += ["in packed rows"] if c.packed_with else []
        return "; ".join(filter(None, said)) or None

    def settings(self, num_shots: int) -> str:
        """Without the number of draws, which may grow; an encoder enters by its
        weights."""
        retrieves = self.rices is not None and self.uses_train(num_shots)
        return configs.to_text(
            replace(
                self.config,
                shots=None,
                draws=1,
                zero_shot_prompt="none"
                if num_shots
                else self.config.zero_shot_prompt,
                retrieval=self.rices.version
                if self.rices and retrieves
                else "",
            )
        )

    def images(self, number: int, num_shots: int) -> Sequence[Image]:
        """Those of the first draw."""
        return self.question_and_prompt(number, num_shots, 0)[1].images

    def prepare(
        self, num_shots: int, advance: Callable[[int, int], object]
    ) -> None:
        """Encodes the images that shots are retrieved by, once."""
        if (
            self.rices is None
            or self.rices.train is not None
            or not self.uses_train(num_shots)
        ):
            return
        if not self.train:
            raise ConfigError(
                "there are no train records to retrieve shots from"
            )
        train, test = (
            RecordImages(
                [self.image_key(record) for record in records],
                partial(self._first_image, records),
            )
            for records in (self.train, self.test)
        )
        self.rices.encode(train, test, self.chosen, advance)

    def _first_image(self, records: Sequence[Any], number: int) -> Image:
        question = self.question(records[number])
        if not question.prompt.images:
            raise ConfigError(
                f"retrieval={self.config.retrieval}: {question.id} has no image to"
                " compare"
            )
        return question.prompt.images[0]

    def evaluate(
        self,
        trained: TrainedModel,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        predictor = self._predictor(trained)
        tokenizer = trained.renderer.tokenizer
        end = tokenizer.name(tokenizer.end)
        lines: list[Line] = []
        for numbers in split_over_ranks(self.chosen):
            asked = [
                self.question_and_prompt(n, num_shots, draw) for n in numbers
            ]
            texts = self._answers(predictor, asked)
            lines += [
                {
                    "id": question.id,
                    "prompt": prompt.written_out(end),
                    "answers": question.answers,
                    "prediction": text.strip(),
                }
                for (question, prompt), text in zip(asked, texts, strict=True)
            ]
            advance(len(asked))
        lines = gather_from_ranks(lines)
        scores = self.score(
            [line["prediction"] for line in lines],
            [line["answers"] for line in lines],
        )
        return [
            line | {"score": float(score)}
            for line, score in zip(lines, scores, strict=True)
        ]

    def _predictor(self, trained: TrainedModel) -> Predictor:
        if self.config.packed_with is None:
            return Predictor.of(trained)
        return PackedPredictor(
            trained, self.config.packed_with, seed=self.config.seed
        )

    def _answers(
        self, predictor: Predictor, asked: Sequence[tuple[Question, Document]]
    ) -> list[str]:
        if not self.config.restricted:
            generate = partial(
                predictor.generate,
                max_tokens=self.config.max_tokens,
                stop=self.config.stop,
            )
            prompts = [prompt for _, prompt in asked]
            if not self.config.same_shots:
                return generate(prompts)
            own = [len(question.prompt.parts) for question, _ in asked]
            return generate_after_shots(generate, prompts, own)
        choices = [
            [self.answer_text(question, each) for each in question.choices]
            for question, _ in asked
        ]
        likeliest = choose(predictor, [prompt for _, prompt in asked], choices)
        return [
            question.choices[i]
            for (question, _), i in zip(asked, likeliest, strict=True)
        ]
