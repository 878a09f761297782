"""Losses on validation documents: how they are taken, and what they leave behind."""

from collections.abc import Iterator

import torch

from mm1.batch import ImageBatch
from mm1.loader.loader import Loader
from mm1.nn.model import Losses, MeanMetric, Model
from mm1.train.validation import validation_losses


class Brightness(Model):
    """The loss of an image is its first value; notes in which mode it is asked."""

    modes: list[bool]

    def forward(self, batch: ImageBatch) -> Losses:
        assert not torch.is_grad_enabled()
        self.modes.append(self.training)
        total = batch.images[:, 0, 0, 0].float().sum()
        count = torch.tensor(float(len(batch.images)))
        names = ("loss", "loss/pages", "accuracy", "router/loss")
        return Losses(total, {n: MeanMetric(total, count) for n in names})


class TwoBatches(Loader):
    def __init__(self) -> None:
        """Of no config."""

    def validation(self, *, rank: int, world_size: int) -> Iterator[ImageBatch]:
        assert (rank, world_size) == (0, 1)
        for values in ((3,), (5, 1)):
            images = torch.tensor(values, dtype=torch.uint8)
            yield ImageBatch(
                images=images[:, None, None, None].repeat(1, 3, 1, 1)
            )


def test_validation_is_in_evaluation_mode_and_training_goes_on() -> None:
    model = Brightness()
    model.modes = []
    given = validation_losses(model, TwoBatches(), torch.device("cpu"))
    assert given == {"validation": 3.0, "validation/pages": 3.0}
    assert model.modes == [False, False]
    assert model.training
