"""POPE (Li et al. 2023, arXiv:2305.10355): object hallucination, by yes-or-no questions
about what an image shows.

    coco_pope_adversarial.json, an object on each line
        {"question_id": 1, "image": "COCO_val2014_000000310196.jpg",
         "text": "Is there a snowboard in the image?", "label": "yes"}

The three files (random, popular, adversarial) share their images and their questions
about objects that are there. Half of the labels are yes. An answer is read as in the
authors' `evaluate.py`: the word `no`, `No` or `not` in its first sentence, commas
removed, makes it a no; anything else is a yes, an empty answer too. So watch the share
of yes as well.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import (
    BenchmarkImages,
    index_by,
    read_annotation_lines,
)
from mm1.eval.benchmarks import PIXEL, Question, Split
from mm1.eval.captioning_and_vqa import VQABenchmark, VQARecord
from mm1.eval.evaluator import Line

NEGATIONS = {"no", "No", "not"}


class Pope(VQABenchmark):
    EXAMPLE = VQARecord(
        "1", "Is there a snowboard in the image?", PIXEL, ("yes",)
    )
    KEYS = None

    metric = "accuracy"
    chance = 0.5
    has_choices = True

    def question(self, record: VQARecord) -> Question:
        return replace(super().question(record), choices=("yes", "no"))

    def read_file(
        self, name: str, split: Split, keys: Sequence[str] | None
    ) -> tuple[Path, Any]:
        field = f"train_{name}" if split == "train" else name
        return read_annotation_lines(getattr(self.config, field), field)

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[VQARecord]:
        records = []
        for number, entry in index_by(data, "question_id", path).items():
            owner = f"question {number}"
            if missing := {"image", "text", "label"} - entry.keys():
                raise ValueError(
                    f"{path}: {owner} has no {', '.join(sorted(missing))}"
                )
            label = entry["label"]
            if label not in ("yes", "no"):
                raise ValueError(
                    f"{path}: the label of {owner} is {label!r}, not yes or no"
                )
            image = images.image_path(entry["image"], owner)
            records.append(
                VQARecord(str(number), entry["text"], image, (label,))
            )
        return records

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            float(yes_or_no(prediction) == label)
            for prediction, (label, *_) in zip(
                predictions, answers, strict=True
            )
        ]

    def extra_metrics(self, lines: Sequence[Line]) -> dict[str, float]:
        """Precision, recall and F1 of yes (0 if it was never given), and its share."""
        pairs = [
            (
                yes_or_no(line["prediction"]) == "yes",
                line["answers"][0] == "yes",
            )
            for line in lines
        ]
        predicted, actual = (sum(column) for column in zip(*pairs, strict=True))
        correct = sum(a and b for a, b in pairs)
        return {
            "precision": correct / max(1, predicted),
            "recall": correct / max(1, actual),
            "f1": 2 * correct / max(1, predicted + actual),
            "yes": predicted / len(lines),
        }


def yes_or_no(answer: str) -> str:
    """Reads an answer as the authors do."""
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if NEGATIONS.intersection(words) else "yes"
