"""GQA (Hudson & Manning 2019, arXiv:1902.09506): questions made from scene graphs, one
right answer each.

    testdev_balanced_questions.json   {"201307251": {"imageId": "n161313", "question": "Is it overcast?",
                                                     "answer": "no", "fullAnswer": "No,
                                                     it is clear.", ...}, ...}

The authors' script compares answers as they stand; here case, articles and punctuation
do not count (`exact_match`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import Folder, given
from mm1.eval.benchmarks import PIXEL, Split
from mm1.eval.captioning_and_vqa import Asked, ShortAnswers
from mm1.eval.metrics import exact_match


class Gqa(ShortAnswers):
    EXAMPLE = Asked("201307251", "Is it overcast?", PIXEL, ("no",))
    KEYS = ()

    metric = "exact match"

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Asked]:
        found = []
        for number, asked in data.items():
            owner = f"question {number}"
            if not isinstance(asked, dict) or "imageId" not in asked:
                raise ValueError(f"{path}: {owner} has no imageId")
            answers = given((asked.get("answer", ""),), path, owner, "answer")
            found.append(
                Asked(
                    number,
                    asked["question"],
                    folder.picture(f"{asked['imageId']}.jpg", owner),
                    answers,
                )
            )
        return found

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [exact_match(*pair) for pair in zip(predictions, answers, strict=True)]
