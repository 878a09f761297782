"""TextVQA (Singh et al. 2019, arXiv:1904.08920): questions about text in images, scored
by VQA accuracy.

    TextVQA_0.5.1_val.json
        {"data": [{"question_id": 34602, "image_id": "003a8ae2ef43b901",
                   "question": "what is the brand of this camera?",
                   "answers": ["nous les gosses", "dakota", ... ten]}, ...]}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import BenchmarkImages, index_by, require_text
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import VQABenchmark, VQARecord
from mm1.eval.metrics import textvqa_accuracy


class TextVqa(VQABenchmark):
    KEYS = ("data",)
    accuracy = staticmethod(textvqa_accuracy)

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[VQARecord]:
        records = []
        for number, entry in index_by(
            data["data"], "question_id", path
        ).items():
            owner = f"question {number}"
            answers = require_text(
                entry.get("answers", ()), path, owner, "answer"
            )
            image = images.image_path(f"{entry['image_id']}.jpg", owner)
            records.append(
                VQARecord(str(number), entry["question"], image, answers)
            )
        return records
