"""The miniature world as raw files, in the formats of real data.

captions/00000.tar ...     WebDataset as of img2dataset: 000000123.png, .txt, .json
pages/00000.parquet ...    OBELICS' schema: images, texts, metadata, general_metadata
text/text.jsonl            {"text": ...}
instructions/llava.json    LLaVA's conversations; images in instructions/images/
four/00000.tar ...         images of four objects, as captions (`write_four_objects`)
"""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm1.miniature.world.examples import (
    Caption,
    WorldImage,
    nth_caption,
    nth_conversation,
    nth_four_objects,
    nth_page,
)
from mm1.miniature.world.text import nth_text

RECORDS_PER_FILE = 4_000


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many records of each kind."""

    captions: int = 6_000
    pages: int = 3_000
    texts: int = 8_000
    conversations: int = 3_000


def write_world(folder: Path, seed: int, amounts: Amounts) -> None:
    """Writes all of it but the images of four objects. Pages show the images of the
    captions."""
    write_captions(folder / "captions", seed, amounts.captions)
    write_interleaved(folder / "pages", seed, amounts.pages, amounts.captions)
    write_texts(folder / "text", seed, amounts.texts)
    write_conversations(folder / "instructions", seed, amounts.conversations)


def write_captions(folder: Path, seed: int, num: int) -> None:
    _write_pairs(folder, num, partial(nth_caption, seed))


def write_four_objects(folder: Path, seed: int, num: int) -> None:
    _write_pairs(folder, num, partial(nth_four_objects, seed))


def _write_pairs(
    folder: Path, num: int, make: Callable[[int], Caption]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, num, RECORDS_PER_FILE):
        with tarfile.open(
            folder / f"{start // RECORDS_PER_FILE:05d}.tar",
            "w",
            format=tarfile.USTAR_FORMAT,
        ) as tar:
            for n in range(start, min(num, start + RECORDS_PER_FILE)):
                caption = make(n)
                key = f"{n:09d}"
                fields = {
                    "key": key,
                    "caption": caption.text,
                    "short": caption.short,
                    **_metadata(caption.image),
                }
                _add(tar, f"{key}.png", caption.image.png)
                _add(tar, f"{key}.txt", caption.text.encode())
                _add(tar, f"{key}.json", json.dumps(fields).encode())


def _metadata(image: WorldImage) -> dict[str, Any]:
    kind = type(image.scene).__name__.lower()
    scene = {"kind": kind, "grid": image.grid, **asdict(image.scene)}
    return {"width": image.width, "height": image.width, "scene": scene}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_interleaved(
    folder: Path, seed: int, num: int, num_images: int
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("images", pa.list_(pa.binary())),
            ("texts", pa.list_(pa.string())),
            ("metadata", pa.string()),
            ("general_metadata", pa.string()),
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, num, RECORDS_PER_FILE):
        numbers = range(start, min(num, start + RECORDS_PER_FILE))
        rows = [_row(n, nth_page(seed, n, num_images)) for n in numbers]
        path = folder / f"{start // RECORDS_PER_FILE:05d}.parquet"
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema), path, compression="NONE"
        )


def _row(n: int, page: tuple[WorldImage | str, ...]) -> dict[str, Any]:
    return {
        "images": [
            part.png if isinstance(part, WorldImage) else None for part in page
        ],
        "texts": [
            None if isinstance(part, WorldImage) else part for part in page
        ],
        "metadata": json.dumps(
            [
                _metadata(part) if isinstance(part, WorldImage) else None
                for part in page
            ]
        ),
        "general_metadata": json.dumps({"url": f"miniature://page/{n}"}),
    }


def write_texts(folder: Path, seed: int, num: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": nth_text(seed, n)}) + "\n" for n in range(num))
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")


def write_conversations(folder: Path, seed: int, num: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for n in range(num):
        conversation = nth_conversation(seed, n)
        name = f"images/{n:09d}.png"
        (folder / name).write_bytes(conversation.image.png)
        turns: list[dict[str, str]] = []
        for question, answer in conversation.turns:
            placeholder = "" if turns else "<image>\n"
            turns += [
                {"from": "human", "value": placeholder + question},
                {"from": "gpt", "value": answer},
            ]
        records.append(
            {"id": f"{n:09d}", "image": name, "conversations": turns}
        )
    (folder / "llava.json").write_text(
        json.dumps(records, indent=1), encoding="utf-8"
    )
