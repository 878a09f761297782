"""Omniglot as prepared folders, made by the real sources.

train.zip  test.zip     the drawings
raw/                    captions and pages as raw files
tokenizer.json          one token for each name
captions/               a drawing and the fixed name of its character
fresh/                  pages of binding: two characters with names that are theirs on
                        this page alone
fixed/                  the same, but each character has one name on all pages
rules/                  pages of induction: each has a rule of its own
one_rule/               the same, but one rule for all: the first is named
text/                   lists that give names other names, as in the miniature world
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mm1.data.tokenizer import train_tokenizer
from mm1.files import atomic_path
from mm1.miniature.characters.episodes import (
    NAMES,
    PAGE_NAMES,
    Episode,
    binding_episode,
    fixed_episode,
    fixed_names,
    rule_episode,
    split_drawings,
)
from mm1.miniature.characters.omniglot import (
    Characters,
    omniglot_files,
    read_characters,
)
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.text import Texts

SEED = 0
NUM_PAGES = 24_000
NUM_TEXTS = 80_000
ITEMS = (6, 13)
"""Pictures, or pairs of them, of a page: from, to below."""
PAGES = {
    "fresh": binding_episode,
    "fixed": fixed_episode,
    "rules": rule_episode,
    "one_rule": partial(rule_episode, rules=(0,)),
}


def prepare_characters(folder: Path, pages: Sequence[str]) -> None:
    """Copies and prepares what `mm1.miniature.in_context` trains on, unless it exists.

    Args:
        folder: what is made in it, see above.
        pages: those of `PAGES` that are needed.

    Raises:
        UserError: the drawings are not there.
    """
    for split, file in omniglot_files().items():
        copy = folder / f"{split}.zip"
        if not copy.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(copy) as path:
                shutil.copyfile(file, path)
    characters, _ = split_drawings(read_characters(folder / "train.zip"))
    raw = folder / "raw"
    for name in ("captions", *pages, "text"):
        if (raw / name).exists():
            continue
        with atomic_path(raw / name) as path:
            if name == "captions":
                _write_captions(path, characters)
            elif name == "text":
                _write_texts(path)
            else:
                _write_pages(path, characters, PAGES[name])
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.exists():
        train_tokenizer(
            iter(NAMES), tokenizer, kind="word", vocab_size=len(NAMES) + 40
        )
    sources: dict[str, type[Source]] = {
        "captions": Interleaved,
        **dict.fromkeys(pages, Interleaved),
        "text": Texts,
    }
    for name, source in sources.items():
        config = Preparation.Config(
            source=source.Config(),
            validation=0.03,
            # names repeat: by text, whole characters would be held out
            validation_by="image" if name != "text" else "text",
        )
        prepare(config, [raw / name], folder / name, tokenizer)


def _write_captions(folder: Path, characters: Characters) -> None:
    """As pages of one drawing, in random order."""
    called = fixed_names(characters)
    pairs = [
        (png, called[key])
        for key, drawings in characters.items()
        for png in drawings
    ]
    order = np.random.default_rng(SEED).permutation(len(pairs))
    rows = (
        {"images": [pairs[i][0], None], "texts": [None, pairs[i][1]]}
        for i in order
    )
    _write_parquet(folder, rows)


def _write_pages(
    folder: Path,
    characters: Characters,
    page: Callable[[Characters, np.random.Generator, int], Episode],
) -> None:
    def rows() -> Iterator[dict]:
        for n in range(NUM_PAGES):
            rng = np.random.default_rng((SEED, n))
            episode = page(characters, rng, int(rng.integers(*ITEMS)))
            images: list[bytes | None] = []
            texts: list[str | None] = []
            for item in episode.items:
                images += [*item.pngs, None]
                texts += [*(None for _ in item.pngs), item.name]
            yield {"images": images, "texts": texts}

    _write_parquet(folder, rows())


def _write_parquet(folder: Path, rows: Iterator[dict]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("images", pa.list_(pa.binary())),
            ("texts", pa.list_(pa.string())),
        ]
    )
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows), schema=schema)
    pq.write_table(table, folder / "00000.parquet", compression="NONE")


def _write_texts(folder: Path) -> None:
    folder.mkdir(parents=True)
    lines = []
    for n in range(NUM_TEXTS):
        rng = np.random.default_rng((SEED, n, 1))
        num = int(rng.integers(2, 5))
        order = rng.permutation(len(PAGE_NAMES))
        words = [PAGE_NAMES[i] for i in order[: 2 * num]]
        items = rng.integers(num, size=int(rng.integers(6, 15)))
        said = [words[2 * i + side] for i in items for side in (0, 1)]
        lines.append(json.dumps({"text": " ".join(said)}) + "\n")
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")
