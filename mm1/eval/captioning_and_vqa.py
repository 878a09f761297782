"""Base classes of benchmarks that read a published annotation file and a folder of
images.

Their prompts are defined here and nowhere else:

    captioning    <image>A photo of                                    then a caption
    VQA           <image>Question: what colour? Short answer:          then an answer

Both are in wide use (OpenFlamingo's differ by a word or two); MM1's own are not
published. With `chat`, for fine-tuned models, they are LLaVA-1.5's (arXiv:2310.03744):

    captioning    <image>Provide a one-sentence caption for the provided image.
    VQA           <image>what colour?
                  Answer the question using a single word or phrase.

The option `instruction` replaces them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.eval.annotation_files import (
    BenchmarkImages,
    read_annotations,
    read_image,
)
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split
from mm1.eval.cider import cider
from mm1.eval.metrics import vqa_accuracy
from mm1.ranges import PositiveInt

CAPTION_PROMPT = "A photo of"
CAPTION_PROMPT_IN_CHAT = (
    "Provide a one-sentence caption for the provided image."
)
VQA_PROMPT = "Question: {} Short answer:"
VQA_PROMPT_IN_CHAT = "{}\nAnswer the question using a single word or phrase."


class AnnotationBenchmark(Benchmark):
    """Records from one JSON file a split, about the images in one folder."""

    KEYS: ClassVar[tuple[str, ...] | None]
    """What the object in the file must have; None: the file holds a list."""

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        annotations: str = ""
        """Annotation file of the test split."""
        images: str = ""
        """Folder of its images."""
        train_annotations: str = ""
        """Annotation file of the split that demonstrations come from."""
        train_images: str = ""
        """Folder of its images; empty: the same folder."""
        instruction: str = ""
        """What follows the image; empty: the prompts above."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def records(self, split: Split) -> Sequence[Any]:
        """The records of a split, from the annotation files.

        Raises:
            ConfigError, FileNotFoundError, ValueError: something is wrong with the
                files; the message names file and record.
        """
        c = self.config
        train = split == "train"
        path, data = self.read_file("annotations", split, self.KEYS)
        images = BenchmarkImages(
            (train and c.train_images) or c.images,
            "train_images" if train else "images",
        )
        return self.read(path, data, images, split)

    def image_key(self, record: Any) -> Hashable:
        return record.image

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[Any]:
        """The records in the content of a file, each with an answer and an existing
        image."""
        raise NotImplementedError

    def read_file(
        self, name: str, split: Split, keys: Sequence[str] | None
    ) -> tuple[Path, Any]:
        """Path and content of the file in the config field `name`, for the train split
        `train_` + `name`."""
        field = f"train_{name}" if split == "train" else name
        return read_annotations(getattr(self.config, field), field, keys)


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    id: str
    image: Path | bytes
    captions: tuple[str, ...]


class CaptionBenchmark(AnnotationBenchmark):
    """Images with several captions each, scored by CIDEr."""

    EXAMPLE = CaptionedImage(
        "391895",
        PIXEL,
        (
            "A man with a red helmet on a dirt road.",
            "A man rides a small moped.",
        ),
    )

    metric = "CIDEr"

    @dataclass(kw_only=True, slots=True)
    class Config(AnnotationBenchmark.Config):
        max_tokens: PositiveInt = 32

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        default = CAPTION_PROMPT_IN_CHAT if config.chat else CAPTION_PROMPT
        self.instruction = config.instruction or default

    def question(self, record: CaptionedImage) -> Question:
        image = read_image(record.image, f"image {record.id}")
        return Question(
            Document((image, Text(self.instruction))),
            record.captions,
            record.id,
        )

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        """CIDEr of each caption, from 0 to 10; papers print 100 times the mean."""
        return cider(predictions, answers)[1].tolist()


@dataclass(frozen=True, slots=True)
class VQARecord:
    id: str
    question: str
    image: Path | bytes
    answers: tuple[str, ...]
    """One of each annotator."""


class VQABenchmark(AnnotationBenchmark):
    """Questions about images with the answers of several annotators, scored by VQA
    accuracy."""

    EXAMPLE = VQARecord(
        "262148000",
        "Where is he looking?",
        PIXEL,
        ("down",) * 5 + ("at table",) * 4 + ("skateboard",),
    )

    metric = "VQA accuracy"

    @dataclass(kw_only=True, slots=True)
    class Config(AnnotationBenchmark.Config):
        instruction: str = ""
        """What follows the image, with {} for the question; empty: the prompts
        above."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config
        default = VQA_PROMPT_IN_CHAT if config.chat else VQA_PROMPT
        self.instruction = config.instruction or default
        if self.instruction.count("{}") != 1:
            raise ConfigError(
                f"instruction {self.instruction!r} needs one {{}} for the question"
            )

    def question(self, record: VQARecord) -> Question:
        image = read_image(record.image, f"question {record.id}")
        text = Text(self.instruction.replace("{}", record.question))
        return Question(Document((image, text)), record.answers, record.id)

    @staticmethod
    def accuracy(answer: str, annotators: Sequence[str]) -> float:
        """Of an answer, against those of all annotators, as the data set's own
        evaluation has it."""
        return vqa_accuracy(answer, annotators)

    def score(
        self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]
    ) -> Sequence[float]:
        return [
            self.accuracy(*pair)
            for pair in zip(predictions, answers, strict=True)
        ]
