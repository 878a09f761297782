"""Operator induction of VL-ICL Bench (see `mm1.eval.vl_icl`): images show two numbers
and a question mark; the shots' answers tell which operator it stands for.

    operator_induction/query.json    [{"id": "0", "image": ["operator_induction/q.jpg"],
                                       "question": "What is the result ...?",
                                       "operator": "+", "answer": 7}]
    operator_induction/support.json  [{"id": "0", "image": [...], "question": "...",
                                       "answer": [3, -1, 2]}]

A support has an answer for each of +, - and x. As in the authors' evaluation the first
digits of a prediction count; so an answer below zero is never right.
`task=operator_induction_interleaved` reads the variant with an image for each number.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.eval.benchmarks import PIXEL, Question, Split
from mm1.eval.vl_icl import VlIclBenchmark, first_line, image_question

OPERATORS = ("+", "-", "x")
DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Sum:
    id: str
    question: str
    images: tuple[Path | bytes, ...]
    answers: tuple[str, ...]
    """For each operator; of a question, for its own."""
    operator: str = ""
    """Of a question; a support has none."""


class OperatorInduction(VlIclBenchmark):
    EXAMPLE = Sum(
        "0", "What is the result of the expression?", (PIXEL,), ("7",), "+"
    )
    DESCRIPTIONS = {
        "concise": "Induce the mathematical operator and calculate the result.",
        "detailed": "The image contains two digit numbers and a ? representing the"
        " mathematical operator. Induce the mathematical operator (addition,"
        " multiplication, minus) according to the results of the in-context examples"
        " and calculate the result.",
    }

    @dataclass(kw_only=True, slots=True)
    class Config(VlIclBenchmark.Config):
        task: str = "operator_induction"
        """The subfolder."""

    config: Config

    def records(self, split: Split) -> Sequence[Sum]:
        task = self.config.task
        test = split == "test"
        name = "query.json" if test else "support.json"
        keys = ("image", "question", "answer", *(("operator",) if test else ()))
        records = []
        for n, entry in enumerate(self.read_entries(task, name, keys)):
            owner = f"{task}/{name}: entry {n}"
            answers = [entry["answer"]] if test else entry["answer"]
            operator = entry["operator"] if test else ""
            if test and operator not in OPERATORS:
                raise ValueError(f"{owner}: operator {operator!r} is unknown")
            if not test and (
                not isinstance(answers, list) or len(answers) != len(OPERATORS)
            ):
                raise ValueError(
                    f"{owner}: its answer {answers} is not a list of one for each of"
                    f" {', '.join(OPERATORS)}"
                )
            records.append(
                Sum(
                    str(entry.get("id", n)),
                    str(entry["question"]).strip(),
                    self.image_paths(entry["image"], owner),
                    tuple(map(str, answers)),
                    operator,
                )
            )
        return records

    def question(self, record: Sum) -> Question:
        return Question(
            image_question(
                record.images, record.question, f"question {record.id}"
            ),
            record.answers[:1],
            record.id,
        )

    def shots(
        self, question: Question, number: int, num_shots: int, draw: int = 0
    ) -> list[Document]:
        """Supports with their answers by the question's operator."""
        if num_shots > len(self.train):
            raise ConfigError(
                f"{num_shots} shots were asked for, but there are {len(self.train)}"
                " supports"
            )
        place = OPERATORS.index(self.test[number].operator)
        order = self.draw(number, draw).permutation(len(self.train))
        supports = [self.train[i] for i in order[:num_shots]]
        return [
            self.shot(replace(support, answers=(support.answers[place],)), key)
            for key, support in enumerate(supports)
        ]

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        found = [DIGITS.search(first_line(said)) for said in predictions]
        return [
            float(match is not None and match.group() == number)
            for match, (number, *_) in zip(found, answers, strict=True)
        ]
