"""GQA (Hudson & Manning 2019, arXiv:1902.09506): questions generated from scene graphs,
with one right answer.

    testdev_balanced_questions.json
        {"201307251": {"imageId": "n161313", "question": "Is it overcast?",
                       "answer": "no", "fullAnswer": "No, it is clear.", ...}, ...}

The authors' script compares answers as they are; here case, articles and punctuation
are ignored (`exact_match`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import BenchmarkImages, require_text
from mm1.eval.benchmarks import PIXEL, Split
from mm1.eval.captioning_and_vqa import VQABenchmark, VQARecord
from mm1.eval.metrics import exact_match


class Gqa(VQABenchmark):
    EXAMPLE = VQARecord("201307251", "Is it overcast?", PIXEL, ("no",))
    KEYS = ()

    metric = "exact match"

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[VQARecord]:
        records = []
        for number, entry in data.items():
            owner = f"question {number}"
            if not isinstance(entry, dict) or "imageId" not in entry:
                raise ValueError(f"{path}: {owner} has no imageId")
            answers = require_text(
                (entry.get("answer", ""),), path, owner, "answer"
            )
            image = images.image_path(f"{entry['imageId']}.jpg", owner)
            records.append(VQARecord(number, entry["question"], image, answers))
        return records

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            exact_match(*pair)
            for pair in zip(predictions, answers, strict=True)
        ]
