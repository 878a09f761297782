"""TextVQA (Singh et al. 2019, arXiv:1904.08920): questions about the text in pictures,
scored by VQA accuracy.

TextVQA_0.5.1_val.json   {"data": [{"question_id": 34602, "image_id": "003a8ae2ef43b901",
                                    "question": "what is the brand of this camera?",
                                    "answers": ["nous les gosses", "dakota", ... ten]},
                                    ...]}
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import Folder, given, index
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import Asked, ShortAnswers


class TextVqa(ShortAnswers):
    KEYS = ("data",)

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Asked]:
        found = []
        for number, asked in index(data["data"], "question_id", path).items():
            owner = f"question {number}"
            answers = given(asked.get("answers", ()), path, owner, "answer")
            file = folder.picture(f"{asked['image_id']}.jpg", owner)
            found.append(Asked(str(number), asked["question"], file, answers))
        return found
