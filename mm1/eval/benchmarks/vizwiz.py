"""VizWiz (Gurari et al. 2018, arXiv:1802.08218): questions of blind people about photos
they took.

    val.json   [{"image": "VizWiz_val_00000001.jpg",
                 "question": "Can you tell me what this medicine is please?",
                 "answers": [{"answer": "night time", "answer_confidence": "maybe"},
                             ... ten],
                 "answer_type": "other", "answerable": 1}, ...]

An image has one question, so its name is the question's id. `unanswerable` is an answer
like any other; the prompt does not mention it, demonstrations may.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import BenchmarkImages, index_by, require_text
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import VQABenchmark, VQARecord
from mm1.eval.metrics import vizwiz_accuracy


class VizWiz(VQABenchmark):
    KEYS = None
    accuracy = staticmethod(vizwiz_accuracy)

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[VQARecord]:
        records = []
        for name, entry in index_by(data, "image", path).items():
            owner = f"question {name}"
            answers = (each["answer"] for each in entry.get("answers", ()))
            records.append(
                VQARecord(
                    name,
                    entry["question"],
                    images.image_path(name, owner),
                    require_text(answers, path, owner, "answer"),
                )
            )
        return records
