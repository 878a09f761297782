"""VQA v2, and OK-VQA, which shares its format; scored by VQA accuracy.

questions.json     {"data_subtype": "val2014",
                    "questions": [{"question_id": 262148000, "image_id": 262148,
                                   "question": "Where is he?"}, ...]}
annotations.json   {"annotations": [{"question_id": 262148000,
                                     "answers": [{"answer": "table"}, ... ten]},
                                    ...]}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.eval.annotation_files import BenchmarkImages, index_by, require_text
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import VQABenchmark, VQARecord


class Vqa(VQABenchmark):
    KEYS = ("annotations",)

    @dataclass(kw_only=True, slots=True)
    class Config(VQABenchmark.Config):
        questions: str = ""
        """Question file of the test split; its answers are in `annotations`."""
        train_questions: str = ""
        file_name: str = "COCO_{subset}_{image:012d}.jpg"
        """File name of an image, from its id and the questions' `data_subtype`."""

    config: Config

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[VQARecord]:
        annotations = index_by(data["annotations"], "question_id", path)
        questions_path, questions = self.read_file(
            "questions", split, ("questions",)
        )
        subset = questions.get("data_subtype", "")
        entries = index_by(
            questions["questions"], "question_id", questions_path
        )
        records = []
        for number, entry in entries.items():
            owner = f"question {number}"
            if number not in annotations:
                raise ValueError(
                    f"{path} has no answers to {owner} of {questions_path}"
                )
            answers = (
                each["answer"] for each in annotations[number]["answers"]
            )
            answers = require_text(answers, path, owner, "answer")
            image = images.image_path(
                self._file_name(entry["image_id"], subset), owner
            )
            records.append(
                VQARecord(str(number), entry["question"], image, answers)
            )
        return records

    def _file_name(self, image: int, subset: str) -> str:
        try:
            return self.config.file_name.format(image=image, subset=subset)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"file_name {self.config.file_name!r} does not work: {error!r}"
            ) from error
