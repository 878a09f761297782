"""CIFAR-10 as prepared folders, made by the real sources.

train.parquet  test.parquet    the photographs, as given
raw/captions/                  a table: image, label and a caption of its own
raw/pages/                     OBELICS' schema
raw/text/                      {"text": ...}
tokenizer.json                 one token for each word, or the one that was given
labels/                        photographs and their bare labels, for CLIP
captions/  pages/  text/       prepared

    export MM1_CIFAR10=FOLDER
    python -m mm1.miniature.cifar.prepared data/photographs
    python -m mm1.miniature.cifar.prepared data/photographs-smollm2 \\
        --tokenizer runs/smollm2/tokenizer.json
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mm1.config import UserError
from mm1.data.tokenizer import train_tokenizer
from mm1.files import atomic_path
from mm1.miniature.cifar.cifar10 import (
    LABELS,
    SPLITS,
    VARIABLE,
    Photograph,
    cifar_files,
    read_photographs,
)
from mm1.miniature.cifar.writing import caption, facts_or_list, page
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source
from mm1.prepare.sources.caption_tables import CaptionTables
from mm1.prepare.sources.interleaved import Interleaved
from mm1.prepare.sources.text import Texts

SEED = 0
NUM_PAGES = 12_000
NUM_TEXTS = 8_000
NUM_WORDS = 400
"""Room for the vocabulary, which is closed."""
VALIDATION = 0.02


def prepare_photographs(folder: Path, tokenizer: Path | None = None) -> None:
    """Copies and prepares photographs, unless they are there; takes about a minute.

    Args:
        tokenizer: that of a language model to go on from; None: one token for each
            word.

    Raises:
        UserError: CIFAR-10 is not there.
    """
    if not all((folder / f"{split}.parquet").exists() for split in SPLITS):
        folder.mkdir(parents=True, exist_ok=True)
        for split, file in cifar_files().items():
            with atomic_path(folder / f"{split}.parquet") as path:
                shutil.copyfile(file, path)
    raw = folder / "raw"
    if not raw.exists():
        photographs = read_photographs(folder / "train.parquet", "train")
        with atomic_path(raw) as path:
            _write_raw(path, photographs)
    if tokenizer is None:
        tokenizer = folder / "tokenizer.json"
        if not tokenizer.exists():
            train_tokenizer(
                _words(raw), tokenizer, kind="word", vocab_size=NUM_WORDS
            )
    sources: dict[str, tuple[Source.Config, str]] = {
        "labels": (CaptionTables.Config(caption="label"), "captions"),
        "captions": (CaptionTables.Config(), "captions"),
        "pages": (Interleaved.Config(), "pages"),
        "text": (Texts.Config(), "text"),
    }
    for name, (source, kind) in sources.items():
        config = Preparation.Config(
            source=source,
            validation=VALIDATION,
            # texts repeat: by text, a whole class would be held out
            validation_by="text" if name == "text" else "image",
        )
        prepare(config, [raw / kind], folder / name, tokenizer)


def _write_raw(folder: Path, photographs: Sequence[Photograph]) -> None:
    """Captions are in random order, or shards would hold one class each."""
    import pyarrow as pa

    _check_classes(photographs)
    order = np.random.default_rng(SEED).permutation(len(photographs))
    rows = []
    for n in map(int, order):
        each = photographs[n]
        said = caption(each.label, np.random.default_rng((SEED, n)))
        rows.append({"image": each.data, "label": each.label, "caption": said})
    schema = pa.schema(
        [
            ("image", pa.binary()),
            ("label", pa.string()),
            ("caption", pa.string()),
        ]
    )
    _write_table(folder / "captions", rows, schema)
    schema = pa.schema(
        [
            ("images", pa.list_(pa.binary())),
            ("texts", pa.list_(pa.string())),
        ]
    )
    pages = (
        page(photographs, np.random.default_rng((SEED, n, 1)))
        for n in range(NUM_PAGES)
    )
    _write_table(folder / "pages", map(_page_row, pages), schema)
    (folder / "text").mkdir()
    lines = (
        json.dumps({"text": facts_or_list(np.random.default_rng((SEED, n, 2)))})
        + "\n"
        for n in range(NUM_TEXTS)
    )
    (folder / "text" / "text.jsonl").write_text("".join(lines), "utf-8")


def _check_classes(photographs: Sequence[Photograph]) -> None:
    missing = set(LABELS) - {each.label for each in photographs}
    if missing:
        raise UserError(
            f"there is no training photograph of {', '.join(sorted(missing))}: not all"
            f" of CIFAR-10 is there; delete the copies, and name its folder by"
            f" {VARIABLE}"
        )


def _page_row(parts: Sequence[Photograph | str]) -> dict[str, Any]:
    return {
        "images": [
            part.data if isinstance(part, Photograph) else None
            for part in parts
        ],
        "texts": [
            None if isinstance(part, Photograph) else part for part in parts
        ],
    }


def _write_table(folder: Path, rows: Iterable[dict], schema: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows), schema=schema)
    pq.write_table(table, folder / "00000.parquet", compression="NONE")


def _words(raw: Path) -> Iterable[str]:
    import pyarrow.parquet as pq

    table = pq.read_table(raw / "captions", columns=["label", "caption"])
    yield from table["label"].to_pylist()
    yield from table["caption"].to_pylist()
    for words in pq.read_table(raw / "pages", columns=["texts"])["texts"]:
        yield " ".join(each for each in words.as_py() if each)
    texts = (raw / "text" / "text.jsonl").read_text(encoding="utf-8")
    yield from (json.loads(line)["text"] for line in texts.splitlines())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    arguments = parser.parse_args()
    try:
        prepare_photographs(arguments.folder, arguments.tokenizer)
    except UserError as error:
        raise SystemExit(f"mm1: {error}") from None
