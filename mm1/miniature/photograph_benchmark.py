"""CIFAR-10's test photographs, to be named and described.

    naming      <image>a photo of -> a cat
    list        <image>dog<image>ship<image> -> cat
    captions    <image> -> whatever the model writes

Shots are training photographs. With `restricted`, the answer is the likeliest of the
ten labels; a caption is right if it has the photograph's label and no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from mm1.config import ConfigError, UserError
from mm1.data.document import Document, Image, Text
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split
from mm1.miniature.cifar.cifar10 import (
    LABELS,
    SIDE,
    Photograph,
    read_photographs,
)
from mm1.miniature.cifar.writing import with_article
from mm1.ranges import PositiveInt

PhotographTask = Literal["naming", "list", "captions"]
A_PHOTO_OF = "a photo of"

cached_photographs = lru_cache(maxsize=4)(read_photographs)


def photographs_of(
    folder: str, split: Split, option: str
) -> Sequence[Photograph]:
    """Those of a folder that `mm1.miniature.cifar.prepared` has made; `option` names
    it.

    Raises:
        ConfigError: no folder is named.
        UserError: it has not made this one.
    """
    if not folder:
        raise ConfigError(
            f"{option} names no folder; `python -m mm1.miniature.cifar.prepared FOLDER`"
            " makes one"
        )
    path = Path(folder) / f"{split}.parquet"
    if not path.is_file():
        raise UserError(
            f"there is no {path}: make it by `python -m mm1.miniature.cifar.prepared"
            f" {folder}`"
        )
    return cached_photographs(path, split)


class Photographs(Benchmark):
    EXAMPLE = Photograph(PIXEL, "cat", "test/0")

    metric = "right label"

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        folder: str = ""
        """What `mm1.miniature.cifar.prepared` has made."""
        task: PhotographTask = "naming"
        max_tokens: PositiveInt = 12

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.has_choices = config.task != "captions"
        self.chance = 1 / len(LABELS) if config.restricted else None

    def records(self, split: Split) -> Sequence[Photograph]:
        return photographs_of(self.config.folder, split, "folder")

    def question(self, record: Photograph) -> Question:
        image = Image(record.data, SIDE, SIDE)
        words = (Text(A_PHOTO_OF),) if self.config.task == "naming" else ()
        choices = LABELS if self.has_choices else ()
        return Question(
            Document((image, *words)), (record.label,), record.id, choices
        )

    def answer_text(self, question: Question, answer: str) -> Text:
        """As in captions and pages."""
        if self.config.chat:
            return super().answer_text(question, answer)
        if self.config.task == "naming":
            return Text(f" {with_article(answer)}")
        return Text(answer)

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            float(labels_in(said) == set(right))
            for said, right in zip(predictions, answers, strict=True)
        ]


def labels_in(text: str) -> set[str]:
    """The labels among its words."""
    return {word.strip(".,:;!?\"'") for word in text.lower().split()} & {
        *LABELS
    }
