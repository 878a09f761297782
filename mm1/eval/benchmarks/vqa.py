"""Questions about pictures in VQA v2's format, scored by VQA accuracy: VQA v2, and OKVQA, which shares the format.

questions.json     {"data_subtype": "val2014",
                    "questions": [{"question_id": 262148000, "image_id": 262148, "question": "Where is he?"}, ...]}
annotations.json   {"annotations": [{"question_id": 262148000, "answers": [{"answer": "table"}, ... ten]}, ...]}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.eval.annotations import Folder, index, read_json
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split, picture
from mm1.eval.metrics import vqa_accuracy


@dataclass(frozen=True, slots=True)
class Asked:
    id: str
    question: str
    picture: Path | bytes
    answers: tuple[str, ...]
    """Of the annotators."""


class Vqa(Benchmark):
    EXAMPLE = Asked("262148000", "Where is he looking?", PIXEL, ("down",) * 5 + ("at table",) * 4 + ("skateboard",))

    metric = "VQA accuracy"

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        questions: str = ""
        annotations: str = ""
        images: str = ""
        """The folder of the pictures that are asked about."""
        train_questions: str = ""
        train_annotations: str = ""
        train_images: str = ""
        """The folder of the demonstrations' pictures; empty: the same folder."""
        picture_name: str = "COCO_{subset}_{image:012d}.jpg"
        """A picture's file, from its id and the questions' `data_subtype`."""

    config: Config

    def records(self, split: Split) -> Sequence[Asked]:
        """Raises ConfigError, FileNotFoundError or ValueError, naming file and question, where something is amiss."""
        c, prefix = self.config, "train_" if split == "train" else ""
        questions_name, annotations_name = f"{prefix}questions", f"{prefix}annotations"
        path, data = read_json(getattr(c, questions_name), questions_name, ("questions",))
        truths_path, truths_data = read_json(getattr(c, annotations_name), annotations_name, ("annotations",))
        truths = index(truths_data["annotations"], "question_id", truths_path)
        folder = Folder(getattr(c, f"{prefix}images") or c.images, f"{prefix}images")
        found = []
        for number, asked in index(data["questions"], "question_id", path).items():
            owner = f"question {number}"
            if number not in truths:
                raise ValueError(f"{truths_path} has no answers to {owner} of {path}")
            answers = tuple(each["answer"] for each in truths[number]["answers"])
            if not any(answer.strip() for answer in answers):
                raise ValueError(f"{truths_path}: {owner} has no answer")
            file = self._picture_name(asked["image_id"], data.get("data_subtype", ""))
            found.append(Asked(str(number), asked["question"], folder.picture(file, owner), answers))
        return found

    def _picture_name(self, image: int, subset: str) -> str:
        try:
            return self.config.picture_name.format(image=image, subset=subset)
        except (KeyError, IndexError, ValueError) as error:
            raise ConfigError(f"picture_name {self.config.picture_name!r} does not work: {error!r}") from error

    def question(self, record: Asked) -> Question:
        image = picture(record.picture, f"question {record.id}")
        words = Text(f"Question: {record.question} Short answer:")
        return Question(Document((image, words)), record.answers, record.id)

    def score(self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]) -> Sequence[float]:
        return [vqa_accuracy(*pair) for pair in zip(predictions, answers, strict=True)]
