"""POPE (Li et al. 2023, arXiv:2305.10355): is a thing in the picture, or does the model
make it up?

    coco_pope_adversarial.json   {"question_id": 1, "image": "COCO_val2014_000000310196.jpg",
                                  "text": "Is there a snowboard in the image?", "label": "yes"}       one on each line

Three such files (random, popular, adversarial) share their pictures and their questions
about what is there. Half of the labels are yes. What counts as which answer is the
authors' `evaluate.py`: in the first sentence, without commas, a word `no`, `No` or
`not` makes it a no; anything else, silence included, is a yes. So look at the share of
yes as well.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import Folder, index, read_lines
from mm1.eval.benchmarks import PIXEL, Split
from mm1.eval.captioning_and_vqa import Asked, ShortAnswers
from mm1.eval.evaluator import Line

NOES = {"no", "No", "not"}


class Pope(ShortAnswers):
    EXAMPLE = Asked("1", "Is there a snowboard in the image?", PIXEL, ("yes",))
    KEYS = None

    metric = "accuracy"
    chance = 0.5

    def file(
        self, name: str, split: Split, keys: Sequence[str] | None
    ) -> tuple[Path, Any]:
        field = f"train_{name}" if split == "train" else name
        return read_lines(getattr(self.config, field), field)

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Asked]:
        found = []
        for number, asked in index(data, "question_id", path).items():
            owner = f"question {number}"
            if missing := {"image", "text", "label"} - asked.keys():
                raise ValueError(f"{path}: {owner} has no {', '.join(sorted(missing))}")
            if asked["label"] not in ("yes", "no"):
                raise ValueError(
                    f"{path}: the label of {owner} is {asked['label']!r}, not yes or no"
                )
            picture = folder.picture(asked["image"], owner)
            found.append(Asked(str(number), asked["text"], picture, (asked["label"],)))
        return found

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            float(verdict(said) == label)
            for said, (label, *_) in zip(predictions, answers, strict=True)
        ]

    def figures(self, lines: Sequence[Line]) -> dict[str, float]:
        """Of the answer yes; precision and F1 are 0 where it was never given."""
        pairs = [
            (verdict(line["prediction"]) == "yes", line["answers"][0] == "yes")
            for line in lines
        ]
        said, true = (sum(column) for column in zip(*pairs, strict=True))
        right = sum(a and b for a, b in pairs)
        return {
            "precision": right / max(1, said),
            "recall": right / max(1, true),
            "f1": 2 * right / max(1, said + true),
            "yes": said / len(lines),
        }


def verdict(said: str) -> str:
    """yes or no."""
    words = said.partition(".")[0].replace(",", "").split(" ")
    return "no" if NOES.intersection(words) else "yes"
