"""Questions about pictures in VQA v2's format, scored by VQA accuracy: VQA v2, and
OK-VQA, which shares the format.

questions.json     {"data_subtype": "val2014",
                    "questions": [{"question_id": 262148000, "image_id": 262148,
                    "question": "Where is he?"}, ...]}
annotations.json   {"annotations": [{"question_id": 262148000, "answers": [{"answer": "table"}, ... ten]}, ...]}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.eval.annotation_files import Folder, given, index
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import Asked, ShortAnswers


class Vqa(ShortAnswers):
    KEYS = ("annotations",)

    @dataclass(kw_only=True, slots=True)
    class Config(ShortAnswers.Config):
        questions: str = ""
        """The file of the questions; `annotations` has their answers."""
        train_questions: str = ""
        picture_name: str = "COCO_{subset}_{image:012d}.jpg"
        """A picture's file, from its id and the questions' `data_subtype`."""

    config: Config

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Asked]:
        truths = index(data["annotations"], "question_id", path)
        questions_path, questions = self.file("questions", split, ("questions",))
        found = []
        for number, asked in index(
            questions["questions"], "question_id", questions_path
        ).items():
            owner = f"question {number}"
            if number not in truths:
                raise ValueError(
                    f"{path} has no answers to {owner} of {questions_path}"
                )
            answers = given(
                (each["answer"] for each in truths[number]["answers"]),
                path,
                owner,
                "answer",
            )
            file = self._picture_name(
                asked["image_id"], questions.get("data_subtype", "")
            )
            found.append(
                Asked(
                    str(number), asked["question"], folder.picture(file, owner), answers
                )
            )
        return found

    def _picture_name(self, image: int, subset: str) -> str:
        try:
            return self.config.picture_name.format(image=image, subset=subset)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(
                f"picture_name {self.config.picture_name!r} does not work: {error!r}"
            ) from error
