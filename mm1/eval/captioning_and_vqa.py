"""Benchmarks that read published annotation files and a folder of pictures: captions,
and short answers.

The prompts of all of them stand here, and nowhere else:

    captions         <image>A photo of                                    a caption comes next
    short answers    <image>Question: what colour? Short answer:          an answer comes next

Both are a choice in wide use (OpenFlamingo's differ by a word or two); MM1's own are
not known to us. With `chat`, for fine-tuned models, they are LLaVA-1.5's
(arXiv:2310.03744):

    captions         <image>Provide a one-sentence caption for the provided image.
    short answers    <image>what colour?
                     Answer the question using a single word or phrase.

Each can be changed as `instruction`.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.eval.annotation_files import Folder, read_json
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split, picture
from mm1.eval.cider import cider
from mm1.eval.metrics import vqa_accuracy

DESCRIBE = "A photo of"
ANSWER_SHORTLY = "Question: {} Short answer:"
DESCRIBE_IN_CHAT = "Provide a one-sentence caption for the provided image."
ANSWER_SHORTLY_IN_CHAT = "{}\nAnswer the question using a single word or phrase."


class Annotated(Benchmark):
    """Records of one JSON file for each split, about pictures in one folder."""

    KEYS: ClassVar[tuple[str, ...] | None]
    """What the object in the file must have; None: the file holds a list."""

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        annotations: str = ""
        """The file of what is asked."""
        images: str = ""
        """The folder of its pictures."""
        train_annotations: str = ""
        """The file that demonstrations are drawn from."""
        train_images: str = ""
        """The folder of their pictures; empty: the same folder."""
        instruction: str = ""
        """What follows the picture; empty: the words above."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def records(self, split: Split) -> Sequence[Any]:
        """Raises ConfigError, FileNotFoundError or ValueError, naming file and record,
        where something is amiss."""
        c = self.config
        train = split == "train"
        path, data = self.file("annotations", split, self.KEYS)
        folder = Folder(
            (train and c.train_images) or c.images,
            "train_images" if train else "images",
        )
        return self.read(path, data, folder, split)

    def picture_name(self, record: Any) -> Hashable:
        return record.picture

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Any]:
        """The records of a file's content, each with an answer and a picture that is
        there."""
        raise NotImplementedError

    def file(
        self, name: str, split: Split, keys: Sequence[str] | None
    ) -> tuple[Path, Any]:
        """Path and content of the file that the config's field `name`, or `train_` and
        the name, points at."""
        field = f"train_{name}" if split == "train" else name
        return read_json(getattr(self.config, field), field, keys)


@dataclass(frozen=True, slots=True)
class Captioned:
    id: str
    picture: Path | bytes
    captions: tuple[str, ...]


class Captions(Annotated):
    """Pictures with several captions each, scored by CIDEr."""

    EXAMPLE = Captioned(
        "391895",
        PIXEL,
        ("A man with a red helmet on a dirt road.", "A man rides a small moped."),
    )

    metric = "CIDEr"

    @dataclass(kw_only=True, slots=True)
    class Config(Annotated.Config):
        max_tokens: int = 32

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        usual = DESCRIBE_IN_CHAT if config.chat else DESCRIBE
        self.instruction = config.instruction or usual

    def question(self, record: Captioned) -> Question:
        image = picture(record.picture, f"image {record.id}")
        return Question(
            Document((image, Text(self.instruction))), record.captions, record.id
        )

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        """CIDEr of each caption, from 0 to 10; papers print 100 times the mean."""
        return cider(predictions, answers)[1].tolist()


@dataclass(frozen=True, slots=True)
class Asked:
    id: str
    question: str
    picture: Path | bytes
    answers: tuple[str, ...]
    """Of the annotators."""


class ShortAnswers(Annotated):
    """Questions about pictures, with the answers of several people, scored by VQA
    accuracy."""

    EXAMPLE = Asked(
        "262148000",
        "Where is he looking?",
        PIXEL,
        ("down",) * 5 + ("at table",) * 4 + ("skateboard",),
    )

    metric = "VQA accuracy"

    @dataclass(kw_only=True, slots=True)
    class Config(Annotated.Config):
        instruction: str = ""
        """What follows the picture, with a place for the question; empty: the words
        above."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        usual = ANSWER_SHORTLY_IN_CHAT if config.chat else ANSWER_SHORTLY
        self.instruction = config.instruction or usual
        if self.instruction.count("{}") != 1:
            raise ConfigError(
                f"instruction {self.instruction!r} needs one {{}}, where the question"
                " goes"
            )

    def question(self, record: Asked) -> Question:
        image = picture(record.picture, f"question {record.id}")
        words = Text(self.instruction.replace("{}", record.question))
        return Question(Document((image, words)), record.answers, record.id)

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [vqa_accuracy(*pair) for pair in zip(predictions, answers, strict=True)]
