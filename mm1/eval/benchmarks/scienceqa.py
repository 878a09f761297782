"""ScienceQA (Lu et al. 2022, arXiv:2209.09513): multiple-choice school questions, about
half of them with an image.

    problems.json     {"5": {"question": "Which is magnetic?",
                             "choices": ["iron", "wood"], "answer": 0, "hint": "",
                             "image": "image.png", ...}, ...}
    pid_splits.json   {"train": ["1", ...], "val": [...], "test": ["5", ...],
                       "minitest": [...], ...}
    test/5/image.png  the image

    <image>Context: the hint
    Which is magnetic?
    A. iron
    B. wood
    Answer:

An answer is right if it is the letter, alone or as `B.`, `(B)` or `B. wood`. Lectures
and solutions are not shown. With `chat`, for fine-tuned models, LLaVA's wording
replaces `Answer:`, see `ending`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from mm1.config import ConfigError, nearest
from mm1.data.document import Document, Image, Text
from mm1.eval.annotation_files import (
    BenchmarkImages,
    read_annotations,
    read_image,
)
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split
from mm1.eval.evaluator import Line

ENDING = "Answer:"
ENDING_IN_CHAT = (
    "Answer with the option's letter from the given choices directly."
)
CHOICE = re.compile(r"\(?([A-Za-z])\)?[.:]?|\(?([A-Z])[.):]\s.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    """Index of the right choice."""
    hint: str = ""
    image: Path | bytes | None = None


class ScienceQA(Benchmark):
    EXAMPLE = Problem(
        "5",
        "Which is magnetic?",
        ("wood", "iron"),
        1,
        "Magnets attract some metals.",
        PIXEL,
    )

    metric = "exact match of the letter"
    has_choices = True

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        problems: str = ""
        splits: str = ""
        """pid_splits.json."""
        images: str = ""
        """The folder with `train`, `val` and `test`; not needed for questions without
        images."""
        test_split: str = "test"
        """The split that is evaluated."""
        train_split: str = "train"
        """The split that demonstrations come from."""
        with_image: bool | None = None
        """True: only questions with an image; False: only those without; None: all."""
        ending: str = ""
        """The last line; empty: `ENDING`, with chat `ENDING_IN_CHAT`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        default = ENDING_IN_CHAT if config.chat else ENDING
        self.ending = config.ending or default

    def records(self, split: Split) -> Sequence[Problem]:
        """The records of a split, from the annotation files.

        Raises:
            ConfigError, FileNotFoundError, ValueError: something is wrong with the
                files; the message names file and problem.
        """
        c = self.config
        path, problems = read_annotations(c.problems, "problems", ())
        splits_path, splits = read_annotations(c.splits, "splits", ())
        name = c.train_split if split == "train" else c.test_split
        if name not in splits:
            raise ConfigError(
                f"{splits_path} has no split {name!r}{nearest(name, splits)}"
            )
        records = []
        images = None
        for number in splits[name]:
            if number not in problems:
                raise ValueError(
                    f"{path} has no problem {number}, which is in the split {name} of"
                    f" {splits_path}"
                )
            data = problems[number]
            if c.with_image not in (None, bool(data.get("image"))):
                continue
            if data.get("image"):
                images = images or BenchmarkImages(c.images, "images")
            records.append(_problem(path, number, data, images))
        return records

    def question(self, record: Problem) -> Question:
        parts = list[Image | Text]()
        if record.image is not None:
            parts.append(read_image(record.image, f"problem {record.id}"))
        context = [f"Context: {record.hint}"] if record.hint else []
        choices = [
            f"{letter}. {choice}"
            for letter, choice in zip(
                ascii_uppercase, record.choices, strict=False
            )
        ]
        parts.append(
            Text("\n".join([*context, record.question, *choices, self.ending]))
        )
        letters = tuple(ascii_uppercase[: len(record.choices)])
        return Question(
            Document(tuple(parts)),
            (letters[record.answer],),
            record.id,
            letters,
        )

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            float(_letter(prediction) == letter)
            for prediction, (letter, *_) in zip(
                predictions, answers, strict=True
            )
        ]

    def extra_metrics(self, lines: Sequence[Line]) -> dict[str, float]:
        """Accuracy of questions with and without an image, if there are both."""
        has_image = {
            record.id: record.image is not None for record in self.test
        }
        scores = {
            name: [
                line["score"] for line in lines if has_image[line["id"]] == flag
            ]
            for name, flag in KINDS
        }
        if not all(scores.values()):
            return {}
        return {name: float(np.mean(values)) for name, values in scores.items()}


KINDS = (("with picture", True), ("without picture", False))


def _problem(
    path: Path,
    number: str,
    data: dict[str, Any],
    images: BenchmarkImages | None,
) -> Problem:
    owner = f"problem {number}"
    if missing := {"question", "choices", "answer"} - data.keys():
        raise ValueError(f"{path}: {owner} has no {', '.join(sorted(missing))}")
    choices = tuple(data["choices"])
    answer = data["answer"]
    if not 0 <= answer < len(choices):
        raise ValueError(
            f"{path}: the answer of {owner} is choice {answer}, but it has"
            f" {len(choices)}, counted from 0"
        )
    image = None
    if name := data.get("image"):
        if "split" not in data:
            raise ValueError(
                f"{path}: {owner} has an image but no split, which is its folder"
            )
        assert images is not None
        image = images.image_path(f"{data['split']}/{number}/{name}", owner)
    return Problem(
        number,
        data["question"].strip(),
        choices,
        answer,
        (data.get("hint") or "").strip(),
        image,
    )


def _letter(answer: str) -> str:
    """The letter that an answer chooses; empty if there is none."""
    match = CHOICE.fullmatch(answer.strip())
    return (match[1] or match[2]).upper() if match else ""
