"""VizWiz (Gurari et al. 2018, arXiv:1802.08218): questions that blind people asked
about their photos.

    val.json   [{"image": "VizWiz_val_00000001.jpg", "question": "Can you tell me what this medicine is please?",
                 "answers": [{"answer": "night time", "answer_confidence": "maybe"}, ...
                 ten], "answer_type": "other", "answerable": 1}, ...]

An image has one question, so its name is the question's. `unanswerable` is an answer
like any other; the prompt does not offer it, the demonstrations may.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import Folder, given, index
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import Asked, ShortAnswers


class VizWiz(ShortAnswers):
    KEYS = None

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Asked]:
        found = []
        for name, asked in index(data, "image", path).items():
            owner = f"question {name}"
            answers = given(
                (each["answer"] for each in asked.get("answers", ())),
                path,
                owner,
                "answer",
            )
            found.append(
                Asked(name, asked["question"], folder.picture(name, owner), answers)
            )
        return found
