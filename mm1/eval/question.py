"""A question to a language model, and other labels for it.

right    question: what it is   demonstrations: what they are
wrong    question: what it is   demonstrations: any other of their choices, at random
moved    both: the choices trade places, red -> blue -> green -> red
alone    question: what it is   demonstrations: what they are, without images
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mm1.data.document import Document

ShotLabels = Literal["right", "wrong", "moved", "alone"]
LABELS: dict[ShotLabels, str] = {
    "right": "",
    "wrong": "shots with wrong labels",
    "moved": "labels moved, new truth",
    "alone": "labels of shots alone, without their pictures",
}
"""What the demonstrations show, as tables say it."""


@dataclass(frozen=True, slots=True)
class Question:
    prompt: Document
    answers: tuple[str, ...]
    """The references that the score compares with: several captions, the answers of ten
    annotators, or the one right answer."""
    id: str
    choices: tuple[str, ...] = ()
    """All answers that it may have, the right one among them; empty if the set is
    open."""

    @property
    def answer(self) -> str:
        """The answer shown in a demonstration: the most frequent one, the first of
        equals."""
        frequent = Counter(answer for answer in self.answers if answer.strip())
        return frequent.most_common(1)[0][0]


def relabelled(
    question: Question, labels: ShotLabels, seed: Sequence[int]
) -> Question:
    """The question with another truth: "wrong" draws it by the whole seed, "moved" by
    the first number alone, the same for all questions with these choices.

    Raises:
        ValueError: the truth is not one of several choices.
    """
    if labels not in ("wrong", "moved"):
        return question
    choices = question.choices
    if question.answer not in choices or len(set(choices)) < 2:
        raise ValueError(
            f"{question.id}: the answer {question.answer!r} is not one of several"
            f" choices {choices}"
        )
    if labels == "wrong":
        others = [each for each in choices if each != question.answer]
        shown = others[np.random.default_rng(seed).integers(len(others))]
    else:
        order = np.random.default_rng(seed[0]).permutation(len(choices))
        cycle = [choices[i] for i in order]
        shown = cycle[(cycle.index(question.answer) + 1) % len(cycle)]
    return replace(question, answers=(shown,))
