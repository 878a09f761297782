"""A training run without a data set: documents of MM1-like lengths in the real loader.

`synthetic_run` gives any recipe of packed sequences a loader whose documents are made
on the spot. Mixture, packing, workers, JPEG decoding and resizing are those of
`PackedLoader`, so the layout of a batch is that of a real run: how many documents and
images a sequence holds, and how both vary.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image as Pillow
from tokenizers import Tokenizer as Backend
from tokenizers import models

from mm1.batch import PackedBatch
from mm1.catalog import recipe
from mm1.config import ConfigError
from mm1.data.document import Document, Image, Text
from mm1.data.render import Renderer
from mm1.loader.mixture import Mixture
from mm1.loader.mixture_state import Row
from mm1.loader.packed import PackedLoader
from mm1.overrides import override
from mm1.recipes.pretrain import MIXTURE
from mm1.train.trainer import Trainer

NUM_DRAWS = 1 << 16
"""Document lengths come from a table of this many draws."""
NUM_JPEGS = 64
TEXT_ONLY = "text"


class Lengths(NamedTuple):
    """The distribution of one kind of document."""

    median_tokens: float
    sigma: float
    """Of the logarithm of the number of text tokens."""
    mean_further_images: float | None
    """Images beyond the first, Poisson-distributed; None: no image at all."""


KINDS = {
    "captions": Lengths(24, 0.6, 0.0),
    "interleaved": Lengths(550, 0.9, 1.5),
    "text": Lengths(700, 1.1, None),
}


class SyntheticDocuments:
    """One kind of document: the lengths a mixture asks for, and the documents."""

    num_documents = 2_000_000_000

    def __init__(
        self,
        kind: str,
        *,
        tokens_per_image: int,
        sequence_length: int,
        max_images: int,
    ) -> None:
        lengths = KINDS[kind]
        seed = hashlib.blake2b(kind.encode(), digest_size=4).digest()
        rng = np.random.default_rng(int.from_bytes(seed))
        logarithms = rng.normal(
            np.log(lengths.median_tokens), lengths.sigma, NUM_DRAWS
        )
        text = np.exp(logarithms).astype(np.int64).clip(4, None)
        if lengths.mean_further_images is None:
            self.num_images = np.zeros(NUM_DRAWS, np.int64)
            self.num_text_tokens = text
        else:
            further = rng.poisson(lengths.mean_further_images, NUM_DRAWS)
            fit = (sequence_length - 4) // max(1, tokens_per_image)
            most = max(1, min(max_images, fit))
            self.num_images = (1 + further).clip(1, most)
            room = sequence_length - self.num_images * tokens_per_image
            self.num_text_tokens = np.minimum(text, room)
        self.tokens_per_image = tokens_per_image

    def lengths(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = self.num_images[ids % NUM_DRAWS]
        text = self.num_text_tokens[ids % NUM_DRAWS]
        return text + images * self.tokens_per_image, images

    def image_spans(self, document: int) -> list[tuple[int, int, int]]:
        raise AssertionError(f"document {document} fits a row, as all do")

    def describe(self) -> dict[str, int | float]:
        return {"documents": self.num_documents}

    def document(
        self, number: int, jpegs: Sequence[Image], vocab_size: int
    ) -> Document:
        """Random words, a share of them after each image."""
        length = int(self.num_text_tokens[number % NUM_DRAWS]) - 1
        count = int(self.num_images[number % NUM_DRAWS])
        ids = np.random.default_rng(number).integers(8, vocab_size, length)
        parts: list[Image | Text] = []
        for i, words in enumerate(np.array_split(ids, max(1, count))):
            if count:
                parts.append(jpegs[(number + i) % len(jpegs)])
            parts.append(Text("", tokens=tuple(words.tolist())))
        return Document(tuple(parts))


class SyntheticShards:
    """What a `PackedDataset` reads documents from, in place of a folder's shards."""

    def __init__(
        self,
        documents: SyntheticDocuments,
        jpegs: Sequence[Image],
        vocab_size: int,
    ) -> None:
        self.documents = documents
        self.jpegs = jpegs
        self.vocab_size = vocab_size

    def read(self, number: int) -> tuple[str, Document]:
        document = self.documents.document(number, self.jpegs, self.vocab_size)
        return str(number), document


class SyntheticDataset:
    """The loader's own dataset, reading synthetic documents; in a worker."""

    def __init__(
        self, dataset: Any, sources: Sequence[SyntheticDocuments]
    ) -> None:
        self.dataset = dataset
        self.sources = sources

    @cached_property
    def shards(self) -> list[SyntheticShards]:
        renderer = self.dataset.renderer
        processor = renderer.image_processor
        side = int(1.4 * max(processor.size)) if processor else 32
        jpegs = noisy_jpegs(NUM_JPEGS, side)
        vocab_size = renderer.tokenizer.vocab_size
        return [
            SyntheticShards(source, jpegs, vocab_size)
            for source in self.sources
        ]

    def __getitem__(self, rows: list[Row]) -> PackedBatch:
        self.dataset.shards = self.shards
        return self.dataset[rows]


class SyntheticLoader(PackedLoader):
    """A `PackedLoader` whose sources are kinds of `KINDS` instead of folders."""

    @dataclass(kw_only=True, slots=True)
    class Config(PackedLoader.Config):
        tokenizer_path: str

        def tokenizer(self) -> str:
            return self.tokenizer_path

    def __init__(
        self, config: Config, *, renderer: Renderer, seed: int
    ) -> None:
        self.config = config
        self.renderer = renderer
        self.sources: Any = {
            name: SyntheticDocuments(
                kind,
                tokens_per_image=renderer.tokens_per_image,
                sequence_length=config.sequence_length,
                max_images=config.max_images,
            )
            for name, kind in config.sources.items()
        }
        self.names = tuple(self.sources)
        self.mixture = Mixture(
            self.sources,
            config.weights,
            sequence_length=config.sequence_length,
            max_images=config.max_images if renderer.image_processor else 0,
            packing_window=config.packing_window,
            seed=seed,
        )
        self.data = {}

    def _dataset(self, folders: dict[str, str], split: str = "train") -> Any:
        dataset = super()._dataset(folders, split)
        return SyntheticDataset(dataset, list(self.sources.values()))


def noisy_jpegs(count: int, side: int) -> list[Image]:
    """JPEGs with the detail of photographs: smooth colour fields and some noise."""
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        small = Pillow.fromarray(
            rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        )
        coarse = small.resize((side, side), Pillow.Resampling.BICUBIC)
        noise = rng.normal(0, 12, (side, side, 3)).astype(np.int16)
        pixels = (np.asarray(coarse, np.int16) + noise).clip(0, 255)
        buffer = io.BytesIO()
        Pillow.fromarray(pixels.astype(np.uint8)).save(
            buffer, "JPEG", quality=85
        )
        made.append(Image(buffer.getvalue(), side, side))
    return made


def write_tokenizer(folder: Path, vocab_size: int) -> Path:
    """A tokenizer whose words are numbers: the documents come as ids."""
    words = {"<pad>": 0, "<end>": 1, "<image>": 2}
    words |= {str(i): i for i in range(3, vocab_size)}
    path = folder / "tokenizer.json"
    Backend(models.WordLevel(words, unk_token="<pad>")).save(str(path))
    return path


def synthetic_run(
    name: str,
    overrides: Sequence[str],
    *,
    folder: Path,
    vocab_size: int,
    text_only: bool = False,
) -> Trainer.Config:
    """A recipe of packed sequences from random weights, on synthetic documents of its
    mixture, or of MM1's for sources of other names; the tokenizer goes into `folder`.

    Raises:
        ConfigError: the recipe has another loader.
    """
    config = replace(recipe(name), init={}, benchmarks={})
    if not isinstance(config.loader, PackedLoader.Config):
        raise ConfigError(f"{name} does not train on packed sequences")
    options = {
        f.name: getattr(config.loader, f.name) for f in fields(config.loader)
    }
    weights = options["weights"]
    if not weights.keys() <= KINDS.keys():
        weights = MIXTURE
    if text_only:
        weights = {TEXT_ONLY: 1.0}
    options |= {
        "weights": dict(weights),
        "sources": {kind: kind for kind in weights},
        "packing_window": 64,
        "tokenizer_path": str(write_tokenizer(folder, vocab_size)),
    }
    config = replace(config, loader=SyntheticLoader.Config(**options))
    for assignment in overrides:
        override(config, assignment)
    return config
