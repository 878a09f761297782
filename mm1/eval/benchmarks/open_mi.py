"""Fast open-ended MiniImageNet of VL-ICL Bench (see `mm1.eval.vl_icl`): two classes get
made-up names in the shots, and the question shows one of them.

    open_mi/query.json
        [{"id": "0", "image": ["open_mi/q.jpg"], "question": "This is a",
          "answer": "dax", "classes": ["dax", "perpo", ...],
          "support": {"dax": {"images": ["open_mi/s.jpg", ...]}, ...}}, ...]

As in the authors' script, one shot is an image of each of two classes, the right one
and another, and answers are free text, which must equal the name. With
`restricted=True` it is a forced choice between the two. `shot_labels=moved` swaps the
names: only a model that reads them off the shots follows.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.eval.benchmarks import PIXEL, Question, Split
from mm1.eval.vl_icl import VlIclBenchmark, first_line, image_question


@dataclass(frozen=True, slots=True)
class NamedImage:
    id: str
    question: str
    answer: str
    images: tuple[Path | bytes, ...]
    support: tuple[tuple[str, tuple[Path | bytes, ...]], ...]
    """(class, images that can show it) of all its classes."""


class OpenMi(VlIclBenchmark):
    EXAMPLE = NamedImage(
        "0",
        "This is a",
        "dax",
        (PIXEL,),
        (("dax", (PIXEL,)), ("perpo", (PIXEL,))),
    )
    DESCRIPTIONS = {
        "concise": "Answer the question with a single word or phase.",
        "detailed": "Induce the concept from the in-context examples. Answer the"
        " question with a single word or phase.",
    }

    has_choices = True

    @dataclass(kw_only=True, slots=True)
    class Config(VlIclBenchmark.Config):
        pass

    def records(self, split: Split) -> Sequence[NamedImage]:
        """Those of `query.json`, with the shots that each can have."""
        keys = ("image", "question", "answer", "classes", "support")
        records = []
        for n, entry in enumerate(
            self.read_entries("open_mi", "query.json", keys)
        ):
            owner = f"open_mi/query.json: entry {n}"
            classes = entry["classes"]
            if not isinstance(classes, list) or not isinstance(
                entry["support"], dict
            ):
                raise ValueError(
                    f"{owner}: classes is not a list, or support not an object"
                )
            if entry["answer"] not in classes or len(set(classes)) < 2:
                raise ValueError(
                    f"{owner}: the answer {entry['answer']!r} is not one of several"
                    f" classes {classes}"
                )
            support = []
            for name in dict.fromkeys(classes):
                shown = entry["support"].get(name) or {}
                if not shown.get("images"):
                    raise ValueError(f"{owner}: class {name!r} has no support")
                paths = self.image_paths(shown["images"], owner)
                support.append((name, paths))
            records.append(
                NamedImage(
                    str(entry.get("id", n)),
                    str(entry["question"]).strip(),
                    entry["answer"],
                    self.image_paths(entry["image"], owner),
                    tuple(support),
                )
            )
        return records

    def question(self, record: NamedImage) -> Question:
        rng = np.random.default_rng(
            (self.config.seed, zlib.crc32(record.id.encode()))
        )
        others = [name for name, _ in record.support if name != record.answer]
        other = others[int(rng.integers(len(others)))]
        return Question(
            image_question(
                record.images, record.question, f"question {record.id}"
            ),
            (record.answer,),
            record.id,
            tuple(sorted((record.answer, other))),
        )

    def shots(
        self, question: Question, number: int, num_shots: int, draw: int = 0
    ) -> list[Document]:
        """An image of each of the two classes for each shot, in an order that is
        drawn."""
        record = self.test[number]
        support = dict(record.support)
        order = [
            question.choices[i] for i in self.draw(number, draw).permutation(2)
        ]
        fewest = min(len(support[name]) for name in order)
        if num_shots > fewest:
            raise ConfigError(
                f"{num_shots} shots were asked for, but question {record.id} has"
                f" {fewest} images of a class"
            )
        pairs = [(name, i) for i in range(num_shots) for name in order]
        return [
            self._shot_of(record, support[name][i], name, question.choices, key)
            for key, (name, i) in enumerate(pairs)
        ]

    def _shot_of(
        self,
        record: NamedImage,
        image: Path | bytes,
        name: str,
        choices: tuple[str, ...],
        key: int,
    ) -> Document:
        prompt = image_question(
            (image,), record.question, f"question {record.id}"
        )
        shown = Question(prompt, (name,), record.id, choices)
        return self.demonstration(self.formatted(shown), key)

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            float(first_line(said).lower() == name.lower())
            for said, (name, *_) in zip(predictions, answers, strict=True)
        ]
