"""Zero-shot classification, as CLIP is measured (Radford et al. 2021, section 3.1): the
nearest text is the class.

"a photo of a {}." x cat    -> feature \\  mean -> the class "cat"
"a drawing of a {}." x cat  -> feature /                            picture -> feature -> the nearest class
                                                  the class "dog"
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
from mm1.eval.evaluator import Evaluator, Line, Split, gather, share
from mm1.infer.encoder import Encoder
from mm1.infer.trained import Trained

TOP = 5


class ZeroShot(Evaluator):
    """Accuracy of the nearest class, and how often the true one is among the five
    nearest where there are more."""

    metric = "zero-shot accuracy"
    needs = {"encode_texts": "an encoder that was trained with captions"}

    @dataclass(kw_only=True, slots=True)
    class Config(Evaluator.Config):
        data: Classes.Config = field(default_factory=Folders.Config)
        templates: tuple[str, ...] = ("a photo of a {}.",)
        """Texts with a place for the class's name; a class's feature is the mean over
        all of them."""

        def build(self) -> "ZeroShot":
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
                    f"the template {template!r} needs one {{}}, where the class's name"
                    " goes"
                )
        self.data = config.data.build()

    def plan(self, shots: Sequence[int]) -> Sequence[int]:
        return (0,)

    def records(self, split: Split) -> Sequence[Any]:
        records = self.data.records(split)
        self.chance = 1 / len(self.data.names)
        return records

    def pictures(self, number: int, num_shots: int) -> Sequence[Image]:
        return (self.data.labelled(self.test[number]).image,)

    def ask(
        self,
        trained: Trained,
        num_shots: int,
        advance: Callable[[int], object],
        draw: int = 0,
    ) -> list[Line]:
        encoder = Encoder.of(trained)
        names = self.data.names
        lines = []
        classes = self._classes(encoder)
        for numbers in share(self.chosen):
            asked = [self.data.labelled(self.test[number]) for number in numbers]
            features = encoder.images([each.image for each in asked])
            for each, nearest in zip(
                asked,
                (features @ classes.T).argsort(-1, descending=True).tolist(),
                strict=True,
            ):
                line = {
                    "id": each.id,
                    "prompt": f"<image> {' | '.join(self.config.templates)}",
                    "answers": [names[each.label]],
                    "prediction": names[nearest[0]],
                    "score": float(nearest[0] == each.label),
                }
                lines.append(
                    line
                    | (
                        {"top5": float(each.label in nearest[:TOP])}
                        if len(names) > TOP
                        else {}
                    )
                )
            advance(len(asked))
        return gather(lines)

    def figures(self, lines: Sequence[Line]) -> dict[str, float]:
        return (
            {"top5": float(np.mean([line["top5"] for line in lines]))}
            if "top5" in lines[0]
            else {}
        )

    def _classes(self, encoder: Encoder) -> Float[Tensor, "classes E"]:
        """The mean over templates of features of unit length, made to unit length
        again."""
        templates = self.config.templates
        found = []
        for names in share(self.data.names):
            features = encoder.texts(
                [
                    template.replace("{}", name)
                    for name in names
                    for template in templates
                ]
            )
            found += (
                features.unflatten(0, (len(names), len(templates))).mean(1).tolist()
            )
        return F.normalize(Tensor(gather(found)), dim=-1)
