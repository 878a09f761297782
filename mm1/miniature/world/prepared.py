"""The miniature world as prepared folders, made from its raw files by the real sources.

raw/  raw-four/                         as `raw_files` writes them
tokenizer.json                          one token for each word
captions/ pages/ text/ instructions/    prepared
four/                                   images of four objects, prepared as captions
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from mm1.data.document import Text
from mm1.data.tokenizer import train_tokenizer
from mm1.files import atomic_path
from mm1.miniature.world.raw_files import (
    Amounts,
    write_four_objects,
    write_world,
)
from mm1.miniature.world.scenes import handwritten_digits
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source
from mm1.prepare.sources.captions import Captions
from mm1.prepare.sources.instructions import Instructions
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.text import Texts

SEED = 0
VOCABULARY = 200
NUM_FOUR_OBJECTS = 4_000
SOURCES: dict[str, type[Source]] = {
    "captions": Captions,
    "pages": Interleaved,
    "text": Texts,
    "instructions": Instructions,
}
"""Folder -> the source that reads it."""


def prepare_world(folder: Path) -> None:
    """Writes and prepares the miniature world; what exists already is kept.

    Raises:
        ConfigError: scikit-learn, which has the handwritten digits, is not installed.
    """
    handwritten_digits()  # nothing is written where they are missing
    raw = folder / "raw"
    if not raw.exists():
        with atomic_path(raw) as path:
            write_world(path, SEED, Amounts())
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        train_tokenizer(
            _words(raw), tokenizer, kind="word", vocab_size=VOCABULARY
        )
    for name, source in SOURCES.items():
        _prepare(source, raw / name, folder / name, tokenizer)


def prepare_four_objects(folder: Path) -> None:
    """Adds the images of four objects to a world that `prepare_world` has prepared."""
    raw = folder / "raw-four"
    if not raw.exists():
        with atomic_path(raw) as path:
            write_four_objects(path, SEED, NUM_FOUR_OBJECTS)
    _prepare(Captions, raw, folder / "four", folder / "tokenizer.json")


def _prepare(
    source: type[Source], raw: Path, folder: Path, tokenizer: Path
) -> None:
    config = Preparation.Config(source=source.Config(), validation=0.03)
    prepare(config, [raw], folder, tokenizer)


def _words(raw: Path) -> Iterator[str]:
    """All texts, as the sources read them: the vocabulary is closed."""
    for name, kind in SOURCES.items():
        source = kind.Config().build()
        files = sorted(
            path
            for pattern in source.PATTERNS
            for path in (raw / name).glob(pattern)
        )
        for record in chain.from_iterable(source.read(path) for path in files):
            parts = source.document(record.data).parts
            yield " ".join(
                part.content for part in parts if isinstance(part, Text)
            )
