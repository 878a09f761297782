"""ScienceQA (Lu et al. 2022, arXiv:2209.09513): school questions with choices, about
half of them with a picture.

    problems.json     {"5": {"question": "Which is magnetic?", "choices": ["iron", "wood"], "answer": 0,
                             "hint": "", "image": "image.png", ...}, ...}             the picture: test/5/image.png
    pid_splits.json   {"train": ["1", ...], "val": [...], "test": ["5", ...], "minitest": [...], ...}

    <image>Context: what the hint says
    Which is magnetic?
    A. iron
    B. wood
    Answer:

An answer is right if it is the letter, alone or as `B.`, `(B)` or `B. wood`. Lectures
and solutions are not shown. With `chat`, for fine-tuned models, LLaVA's words take the
place of `Answer:`, see `ending`.
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
from mm1.eval.annotation_files import Folder, read_json
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split, picture
from mm1.eval.evaluator import Line

ENDING = "Answer:"
ENDING_IN_CHAT = "Answer with the option's letter from the given choices directly."
CHOSEN = re.compile(r"\(?([A-Za-z])\)?[.:]?|\(?([A-Z])[.):]\s.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    """Which choice is right, from 0."""
    hint: str = ""
    picture: Path | bytes | None = None


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

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        problems: str = ""
        splits: str = ""
        """pid_splits.json."""
        images: str = ""
        """The folder with `train`, `val` and `test`; not needed for questions without
        pictures."""
        part: str = "test"
        """Which of the splits is asked."""
        train_part: str = "train"
        """Which one demonstrations are drawn from."""
        with_picture: bool | None = None
        """True: only questions with a picture are asked; False: only those without;
        None: all."""
        ending: str = ""
        """The last line; empty: `ENDING`, in chat `ENDING_IN_CHAT`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        usual = ENDING_IN_CHAT if config.chat else ENDING
        self.ending = config.ending or usual

    def records(self, split: Split) -> Sequence[Problem]:
        """Raises ConfigError, FileNotFoundError or ValueError, naming file and problem,
        where something is amiss."""
        c = self.config
        path, problems = read_json(c.problems, "problems", ())
        splits_path, splits = read_json(c.splits, "splits", ())
        if (part := c.train_part if split == "train" else c.part) not in splits:
            raise ConfigError(
                f"{splits_path} has no split {part!r}{nearest(part, splits)}"
            )
        found = []
        folder = None
        for number in splits[part]:
            if number not in problems:
                raise ValueError(
                    f"{path} has no problem {number}, which {splits_path} puts into"
                    f" {part}"
                )
            data = problems[number]
            if c.with_picture not in (None, bool(data.get("image"))):
                continue
            if data.get("image"):
                folder = folder or Folder(c.images, "images")
            found.append(_problem(path, number, data, folder))
        return found

    def question(self, record: Problem) -> Question:
        parts = list[Image | Text]()
        if record.picture is not None:
            parts.append(picture(record.picture, f"problem {record.id}"))
        context = [f"Context: {record.hint}"] if record.hint else []
        choices = [
            f"{letter}. {choice}"
            for letter, choice in zip(ascii_uppercase, record.choices, strict=False)
        ]
        parts.append(
            Text("\n".join([*context, record.question, *choices, self.ending]))
        )
        return Question(
            Document(tuple(parts)), (ascii_uppercase[record.answer],), record.id
        )

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            float(_letter(said) == true)
            for said, (true, *_) in zip(predictions, answers, strict=True)
        ]

    def figures(self, lines: Sequence[Line]) -> dict[str, float]:
        """The score of questions with and of those without a picture, where there are
        both."""
        pictured = {record.id: record.picture is not None for record in self.test}
        scores = {
            name: [line["score"] for line in lines if pictured[line["id"]] == flag]
            for name, flag in KINDS
        }
        return (
            {name: float(np.mean(some)) for name, some in scores.items()}
            if all(scores.values())
            else {}
        )


KINDS = (("with picture", True), ("without picture", False))


def _problem(
    path: Path, number: str, data: dict[str, Any], folder: Folder | None
) -> Problem:
    owner = f"problem {number}"
    if missing := {"question", "choices", "answer"} - data.keys():
        raise ValueError(f"{path}: {owner} has no {', '.join(sorted(missing))}")
    choices = tuple(data["choices"])
    answer = data["answer"]
    if not 0 <= answer < len(choices):
        raise ValueError(
            f"{path}: the answer of {owner} is choice {answer}, it has {len(choices)}"
            " from 0"
        )
    shown = None
    if name := data.get("image"):
        if "split" not in data:
            raise ValueError(
                f"{path}: {owner} has a picture and no split, which is its folder"
            )
        assert folder is not None
        shown = folder.picture(f"{data['split']}/{number}/{name}", owner)
    return Problem(
        number,
        data["question"].strip(),
        choices,
        answer,
        (data.get("hint") or "").strip(),
        shown,
    )


def _letter(said: str) -> str:
    """The letter that an answer chooses, or nothing."""
    found = CHOSEN.fullmatch(said.strip())
    return (found[1] or found[2]).upper() if found else ""
