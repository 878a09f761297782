"""Image captions in COCO's format, scored by CIDEr: COCO itself, and NoCaps or TextCaps once brought into its format.

    captions.json   {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}, ...],
                     "annotations": [{"image_id": 391895, "id": 1, "caption": "A man with a red helmet."}, ...]}

MM1's COCO numbers are taken to be on Karpathy's test split: give the annotations of those images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mm1.data.document import Document, Text
from mm1.eval.annotations import Folder, index, read_json
from mm1.eval.benchmarks import PIXEL, Benchmark, Question, Split, picture
from mm1.eval.cider import cider


@dataclass(frozen=True, slots=True)
class Captioned:
    id: str
    picture: Path | bytes
    captions: tuple[str, ...]


class Coco(Benchmark):
    EXAMPLE = Captioned("391895", PIXEL, ("A man with a red helmet on a dirt road.", "A man rides a small moped."))

    metric = "CIDEr"

    @dataclass(kw_only=True, slots=True)
    class Config(Benchmark.Config):
        annotations: str = ""
        """Captions of the pictures that are asked."""
        images: str = ""
        """The folder of their pictures."""
        train_annotations: str = ""
        """Captions that demonstrations are drawn from."""
        train_images: str = ""
        """The folder of their pictures; empty: the same folder."""
        instruction: str = "A photo of"
        """What follows the picture; a caption comes next."""
        max_tokens: int = 32

    config: Config

    def records(self, split: Split) -> Sequence[Captioned]:
        """Raises ConfigError, FileNotFoundError or ValueError, naming file and image, where something is amiss."""
        c, train = self.config, split == "train"
        name = "train_annotations" if train else "annotations"
        path, data = read_json(getattr(c, name), name, ("images", "annotations"))
        folder = Folder(c.train_images or c.images if train else c.images, "train_images" if train else "images")
        captions: dict[int, list[str]] = {}
        for annotation in data["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(" ".join(annotation["caption"].split()))
        found = []
        for number, image in index(data["images"], "id", path).items():
            described = tuple(filter(None, captions.get(number, ())))
            if not described:
                raise ValueError(f"{path}: image {number} has no caption")
            found.append(Captioned(str(number), folder.picture(image["file_name"], f"image {number}"), described))
        return found

    def question(self, record: Captioned) -> Question:
        image = picture(record.picture, f"image {record.id}")
        return Question(Document((image, Text(self.config.instruction))), record.captions, record.id)

    def score(self, predictions: Sequence[str], answers: Sequence[tuple[str, ...]]) -> Sequence[float]:
        """CIDEr of each caption, from 0 to 10; papers print 100 times the mean."""
        return cider(predictions, answers)[1].tolist()
