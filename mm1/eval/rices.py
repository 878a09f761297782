"""RICES: demonstrations whose pictures look most like the question's (Yang et al. 2021,
arXiv:2109.05014; Flamingo).

Alike is the cosine between an image encoder's features, one for each picture. Pictures
are looked at once, whatever the number of shots; their features stay in memory (4 bytes
for each channel: 250 MB for 83,000 pictures of 768).
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mm1 import dist
from mm1.config import ConfigError
from mm1.data.document import Image
from mm1.eval.evaluator import gather, share
from mm1.infer.encoder import Encoder
from mm1.runs.folder import load_model, read_config, version


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of some records; records with equal names share one, which is then
    looked at once."""

    names: Sequence[Hashable]
    load: Callable[[int], Image]
    """The picture of the n-th record."""


class Rices:
    """Which train records look most like a question."""

    def __init__(self, encoder: Callable[[], Encoder], version: str) -> None:
        """`encoder` is called when features are needed, and is not kept; `version` is a
        fingerprint of its weights."""
        self.encoder = encoder
        self.version = version
        self.train: Float[Tensor, "pictures E"] | None = None
        self.records: list[list[int]] = []
        """The train records of each picture."""
        self.asked: dict[int, Float[Tensor, " E"]] = {}
        """Test record -> its feature."""

    def look(
        self,
        train: Pictures,
        test: Pictures,
        chosen: Sequence[int],
        advance: Callable[[int, int], object],
    ) -> None:
        """Features of all train pictures and of those of the chosen test records, by
        all ranks together.

        `advance` is told how many pictures have been seen, of how many.

        Raises:
            ImageError: a picture cannot be decoded.
        """
        encoder = self.encoder()
        own = _one_each(train.names, range(len(train.names)))
        asked = _one_each(test.names, chosen)
        total = len(own) + len(asked)
        seen = 0
        features: list[list[Tensor]] = []
        for pictures, numbers in (
            (train, list(own.values())),
            (test, list(asked.values())),
        ):
            found: list[Tensor] = []
            for part in share(numbers):
                found += encoder.pooled([pictures.load(number) for number in part])
                seen = min(total, seen + len(part) * dist.world_size())
                advance(seen, total)
            features.append(gather(found))
        self.train = torch.stack(features[0])
        rows = {name: row for row, name in enumerate(own)}
        self.records = [[] for _ in own]
        for number, name in enumerate(train.names):
            self.records[rows[name]].append(number)
        by_name = dict(zip(asked, features[1], strict=True))
        self.asked = {number: by_name[test.names[number]] for number in chosen}

    def nearest(self, number: int) -> Iterator[int]:
        """Train records, those first that look most like a test record; of equals in
        their order."""
        assert self.train is not None
        for row in (
            (self.train @ self.asked[number])
            .argsort(descending=True, stable=True)
            .tolist()
        ):
            yield from self.records[row]


def open_rices(folder: Path) -> Rices:
    """Retrieval by the image encoder of a run; the encoder is loaded when the first
    shot is needed.

    Raises:
        ConfigError: the folder's model gives no features of pictures.
        FileNotFoundError: it is no finished run.
    """
    owner = read_config(folder).model.owner
    if not hasattr(owner, "encode_patches"):
        raise ConfigError(
            f"retrieval={folder} is a run of {owner.__name__}, which gives no features"
            " of pictures: name one of CLIP or AIM, or an imported encoder"
        )
    return Rices(partial(_encoder, folder), version(folder))


def _encoder(folder: Path) -> Encoder:
    model, renderer, _ = load_model(folder, device := dist.start())
    return Encoder(model, renderer, device)


def _one_each(names: Sequence[Hashable], numbers: Sequence[int]) -> dict[Hashable, int]:
    """Picture -> the first of the records that have it."""
    found: dict[Hashable, int] = {}
    for number in numbers:
        found.setdefault(names[number], number)
    return found
