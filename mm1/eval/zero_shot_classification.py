"""Zero-shot classification as CLIP is evaluated (Radford et al. 2021, section 3.1).

"a photo of a {}." x cat    -> text feature \\  mean -> class feature of "cat"
"a drawing of a {}." x cat  -> text feature /

image -> image feature -> the class with the nearest feature
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.eval.classes import Classes
from mm1.eval.classes.folders import Folders
from mm1.eval.evaluator import Evaluator, Line, Split
from mm1.infer.encoder import Encoder
from mm1.infer.ranks import gather_from_ranks, split_over_ranks
from mm1.infer.trained_model import TrainedModel

TOP = 5


class ZeroShotClassification(Evaluator):
    """Top-1 accuracy, and top-5 where there are more than five classes."""

    metric = "zero-shot accuracy"
    needs = {"encode_texts": "an encoder that was trained with captions"}

    @dataclass(kw_only=True, slots=True)
    class Config(Evaluator.Config):
        data: Classes.Config = field(default_factory=Folders.Config)
        templates: tuple[str, ...] = ("a photo of a {}.",)
        """Texts with {} for the class name; a class feature is the mean over them."""

        def build(self) -> "ZeroShotClassification":
            return self.make()

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if not config.templates:
            raise ConfigError(
                "templates is empty: give one, as templates=['a photo of a {}.']"
            )
        for template in config.templates:
            if template.count("{}") != 1:
                raise ConfigError(
                    f"the template {template!r} needs one {{}} for the class name"
                )
        self.data = config.data.build()

    def shot_counts(self, shots: Sequence[int]) -> Sequence[int]:
        return (0,)

    def records(self, split: Split) -> Sequence[Any]:
        records = self.data.records(split)
        self.chance = 1 / len(self.data.names)
        return records

    def images(self, number: int, num_shots: int) -> Sequence[Image]:
        return (self.data.labelled_image(self.test[number]).image,)

    def evaluate(
        self,
        trained: TrainedModel,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        encoder = Encoder.of(trained)
        names = self.data.names
        lines: list[Line] = []
        classes = self._class_features(encoder)
        for numbers in split_over_ranks(self.chosen):
            batch = [
                self.data.labelled_image(self.test[number])
                for number in numbers
            ]
            features = encoder.images([labelled.image for labelled in batch])
            ranking = (
                (features @ classes.T).argsort(-1, descending=True).tolist()
            )
            for labelled, nearest in zip(batch, ranking, strict=True):
                line = {
                    "id": labelled.id,
                    "prompt": f"<image> {' | '.join(self.config.templates)}",
                    "answers": [names[labelled.label]],
                    "prediction": names[nearest[0]],
                    "score": float(nearest[0] == labelled.label),
                }
                if len(names) > TOP:
                    line["top5"] = float(labelled.label in nearest[:TOP])
                lines.append(line)
            advance(len(batch))
        return gather_from_ranks(lines)

    def extra_metrics(self, lines: Sequence[Line]) -> dict[str, float]:
        if "top5" not in lines[0]:
            return {}
        return {"top5": float(np.mean([line["top5"] for line in lines]))}

    def _class_features(self, encoder: Encoder) -> Float[Tensor, "classes E"]:
        """The mean over templates of unit features, normalised again."""
        templates = self.config.templates
        means = []
        for names in split_over_ranks(self.data.names):
            texts = [
                template.replace("{}", name)
                for name in names
                for template in templates
            ]
            features = encoder.texts(texts)
            by_name = features.unflatten(0, (len(names), len(templates)))
            means += by_name.mean(1).tolist()
        return F.normalize(Tensor(gather_from_ranks(means)), dim=-1)
