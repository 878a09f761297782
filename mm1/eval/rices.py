"""RICES: demonstrations with the images most similar to the question's (Yang et al.
2021, arXiv:2109.05014; used by Flamingo).

Similarity is the cosine between features of an image encoder, one feature an image.
Each image is encoded once for all numbers of shots; features stay in memory (fp32:
250 MB for 83,000 images of width 768).
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
from mm1.infer.encoder import Encoder
from mm1.infer.ranks import gather_from_ranks, split_over_ranks
from mm1.runs.description import read_config
from mm1.runs.weights import RunWeights, load_model


@dataclass(frozen=True, slots=True)
class RecordImages:
    """The image of each record of a split."""

    keys: Sequence[Hashable]
    """One for each record; records with equal keys share an image, which is encoded
    once."""
    load: Callable[[int], Image]
    """Record index -> image."""


class Rices:
    """Finds the train records whose images are most similar to a test record's."""

    def __init__(self, encoder: Callable[[], Encoder], version: str) -> None:
        """Nothing is loaded yet.

        Args:
            encoder: loads the encoder; called when features are computed.
            version: a fingerprint of its weights.
        """
        self.encoder = encoder
        self.version = version
        self.train: Float[Tensor, "images E"] | None = None
        """Features of the train images; None until `encode`."""
        self.records: list[list[int]] = []
        """The train records of each train image."""
        self.queries: dict[int, Float[Tensor, " E"]] = {}
        """Test record -> feature."""

    def encode(
        self,
        train: RecordImages,
        test: RecordImages,
        chosen: Sequence[int],
        advance: Callable[[int, int], object],
    ) -> None:
        """Encodes all train images and those of the chosen test records; all ranks call
        together.

        `advance` is called with how many images are done and how many there are.

        Raises:
            ImageError: an image cannot be decoded.
        """
        encoder = self.encoder()
        train_firsts = _first_records(train.keys, range(len(train.keys)))
        test_firsts = _first_records(test.keys, chosen)
        total = len(train_firsts) + len(test_firsts)
        done = 0
        features: list[list[Tensor]] = []
        for images, numbers in (
            (train, list(train_firsts.values())),
            (test, list(test_firsts.values())),
        ):
            own: list[Tensor] = []
            for part in split_over_ranks(numbers):
                own += encoder.pooled([images.load(number) for number in part])
                done = min(total, done + len(part) * dist.data_size())
                advance(done, total)
            features.append(gather_from_ranks(own))
        self.train = torch.stack(features[0])
        index = {key: i for i, key in enumerate(train_firsts)}
        self.records = [[] for _ in train_firsts]
        for number, key in enumerate(train.keys):
            self.records[index[key]].append(number)
        by_key = dict(zip(test_firsts, features[1], strict=True))
        self.queries = {number: by_key[test.keys[number]] for number in chosen}

    def nearest(self, number: int) -> Iterator[int]:
        """All train records, the most similar to a test record first; ties in record
        order."""
        assert self.train is not None
        similarity = self.train @ self.queries[number]
        for i in similarity.argsort(descending=True, stable=True).tolist():
            yield from self.records[i]


def open_rices(folder: Path) -> Rices:
    """Retrieval by a run's image encoder, which is loaded when it is first needed.

    Raises:
        ConfigError: the run's model has no image features.
        FileNotFoundError: it is not a finished run.
    """
    owner = read_config(folder).model.owner
    if not hasattr(owner, "encode_patches"):
        raise ConfigError(
            f"retrieval={folder} is a run of {owner.__name__}, which has no image"
            " features: name a run of CLIP or AIM, or an imported encoder"
        )
    weights = RunWeights(folder)
    return Rices(partial(_load_encoder, folder, weights), weights.fingerprint)


def _load_encoder(folder: Path, weights: RunWeights) -> Encoder:
    device = dist.start()
    model, renderer, _ = load_model(folder, device, weights=weights)
    return Encoder(model, renderer, device)


def _first_records(
    keys: Sequence[Hashable], numbers: Sequence[int]
) -> dict[Hashable, int]:
    """Image key -> the first of these records that has it."""
    firsts: dict[Hashable, int] = {}
    for number in numbers:
        firsts.setdefault(keys[number], number)
    return firsts
