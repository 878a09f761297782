"""CIFAR-10's photographs as labelled images, to classify or probe."""

from collections.abc import Sequence
from dataclasses import dataclass

from mm1.data.document import Image
from mm1.eval.classes import Classes, LabelledImage
from mm1.eval.evaluator import Split
from mm1.miniature.cifar.cifar10 import LABELS, SIDE, Photograph
from mm1.miniature.photograph_benchmark import photographs_of


class PhotographClasses(Classes):
    names = LABELS

    @dataclass(kw_only=True, slots=True)
    class Config(Classes.Config):
        folder: str = ""
        """What `mm1.miniature.cifar.prepared` has made."""

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def records(self, split: Split) -> Sequence[Photograph]:
        return photographs_of(self.config.folder, split, "data.folder")

    def labelled_image(self, record: Photograph) -> LabelledImage:
        image = Image(record.data, SIDE, SIDE)
        return LabelledImage(image, LABELS.index(record.label), record.id)
