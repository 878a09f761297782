"""Images of the miniature world, classified by the answers of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mm1.config import ConfigError, nearest
from mm1.data.document import Image
from mm1.eval.classes import Classes, LabelledImage
from mm1.eval.evaluator import Split
from mm1.miniature.world import questions as world
from mm1.miniature.world.examples import TASKS
from mm1.ranges import NonNegativeInt, PositiveInt, Seed


class MiniatureClasses(Classes):
    """The classes of a task are its answers: ten digits, five shapes, six colours
    ..."""

    @dataclass(kw_only=True, slots=True)
    class Config(Classes.Config):
        task: str = "digit"
        grid: Literal["near", "wide"] = "near"
        """Size of the images; pre-training's are near."""
        num_train: NonNegativeInt = 400
        num_test: PositiveInt = 400
        seed: Seed = 0
        """Of the images; `train` and `test` share neither images nor scenes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.task not in TASKS:
            raise ConfigError(
                "the miniature world has no task"
                f" {config.task!r}{nearest(config.task, TASKS)}"
            )
        self.names = TASKS[config.task].answers

    def records(self, split: Split) -> Sequence[tuple[Split, int]]:
        return [
            (split, n)
            for n in range(
                self.config.num_test
                if split == "test"
                else self.config.num_train
            )
        ]

    def labelled_image(self, record: tuple[Split, int]) -> LabelledImage:
        split, n = record
        c = self.config
        asked = world.nth_question(
            c.seed, c.task, n, split, named=False, grid=c.grid
        )
        assert asked.image is not None
        image = Image(asked.image.png, asked.image.width, asked.image.width)
        return LabelledImage(
            image, self.names.index(asked.answer), f"{split} {n}"
        )
