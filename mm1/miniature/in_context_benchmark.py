"""Binding and induction: questions that only their shots answer
(`mm1.miniature.characters`).

The answer is a forced choice between two names, chance 0.5. A model that takes no
notice of the shots has exactly 0.5 in the mean of the question as it is and with the
names traded (`shot_labels=moved`): whatever it says is right in one of the two.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split
from mm1.eval.metrics import exact_match
from mm1.miniature.characters.episodes import (
    MAX_SHOTS,
    TASKS,
    Episode,
    InContextTask,
    Item,
    binding_episode,
    rule_episode,
    split_drawings,
)
from mm1.miniature.characters.omniglot import read_characters, unseen_characters

NUM_EPISODES = 200


class InContext(Benchmark):
    EXAMPLE = Episode((Item((PIXEL,), "zun", ("bab", "zun"), 1),))

    metric = "exact match"
    chance = 0.5
    has_choices = True

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        folder: str = ""
        """What `prepare_characters` has made."""
        task: InContextTask = "binding"
        held_out: bool = True
        """Of induction: whether its drawings are those that no page shows, or those of
        the pages."""
        restricted: bool = True
        stop: tuple[str, ...] = ()

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.same_shots or config.retrieval or config.draws > 1:
            raise ConfigError(
                "the shots of in-context learning belong to their question: leave out"
                " draws, retrieval and same_shots"
            )
        if config.task == "binding" and not config.held_out:
            raise ConfigError(
                "binding asks about characters that no page shows: held_out is for"
                " induction"
            )
        if config.task not in TASKS:
            raise ConfigError(f"there is no task {config.task!r}: {TASKS}")

    def records(self, split: Split) -> Sequence[Episode]:
        folder = Path(self.config.folder)
        train = read_characters(folder / "train.zip")
        if self.config.task == "binding":
            shown = unseen_characters(
                read_characters(folder / "test.zip"), train
            )
            make = partial(binding_episode, paired=True)
        else:
            shown = split_drawings(train)[self.config.held_out]
            make = rule_episode
        seed = (self.config.seed, TASKS.index(self.config.task))
        episodes = []
        for n in range(NUM_EPISODES):
            rng = np.random.default_rng((*seed, n))
            made = make(shown, rng, MAX_SHOTS + 1)
            episodes.append(Episode(made.items, str(n)))
        return episodes

    def question(self, record: Episode) -> Question:
        return _question(record.items[-1], record)

    def shots(
        self, question: Question, number: int, num_shots: int, draw: int = 0
    ) -> list[Document]:
        """The last of the episode's shots, as many as asked for: those of binding come
        in pairs, one of each character."""
        if num_shots > MAX_SHOTS:
            raise ConfigError(
                f"{num_shots} shots were asked for, but an episode has {MAX_SHOTS}"
            )
        record = self.test[number]
        first = len(record.items) - 1 - num_shots
        shown = record.items[first:-1] if num_shots else ()
        return [
            self.demonstration(self.formatted(_question(item, record)), key)
            for key, item in enumerate(shown)
        ]

    def uses_train(self, num_shots: int) -> bool:
        return False

    def answer_text(self, question: Question, answer: str) -> Text:
        """As in pages, where a name follows its picture."""
        if self.config.chat:
            return super().answer_text(question, answer)
        return Text(answer)

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            exact_match(*pair, normalise=False)
            for pair in zip(predictions, answers, strict=True)
        ]


def _question(item: Item, episode: Episode) -> Question:
    images = tuple(Image(png, item.side, item.side) for png in item.pngs)
    return Question(Document(images), (item.name,), episode.id, item.choices)
