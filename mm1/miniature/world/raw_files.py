"""The miniature world as files, in the formats that real data comes in.

captions/00000.tar ...       WebDataset as img2dataset writes it: 000000123.png, .txt, .json
pages/00000.parquet ...      OBELICS' schema: images, texts, metadata, general_metadata
text/text.jsonl              {"text": ...}
instructions/llava.json      LLaVA's conversations; pictures in instructions/images/
four/00000.tar ...           as captions, of pictures with four things; `write_four_objects` alone writes them
"""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mm1.miniature.world import examples as deal
from mm1.miniature.world import text
from mm1.miniature.world.examples import Caption, Picture

RECORDS_A_FILE = 4_000


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many records of each kind."""

    captions: int = 6_000
    pages: int = 3_000
    texts: int = 8_000
    conversations: int = 3_000


def write_world(folder: Path, seed: int, amounts: Amounts) -> None:
    """All of it. The pictures of pages are those of the captions."""
    write_captions(folder / "captions", seed, amounts.captions)
    write_pages(folder / "pages", seed, amounts.pages, amounts.captions)
    write_texts(folder / "text", seed, amounts.texts)
    write_conversations(folder / "instructions", seed, amounts.conversations)


def write_captions(folder: Path, seed: int, num: int) -> None:
    _write_pairs(folder, num, partial(deal.caption, seed))


def write_four_objects(folder: Path, seed: int, num: int) -> None:
    _write_pairs(folder, num, partial(deal.four, seed))


def _write_pairs(folder: Path, num: int, make: Callable[[int], Caption]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, num, RECORDS_A_FILE):
        with tarfile.open(
            folder / f"{start // RECORDS_A_FILE:05d}.tar",
            "w",
            format=tarfile.USTAR_FORMAT,
        ) as tar:
            for n in range(start, min(num, start + RECORDS_A_FILE)):
                caption = make(n)
                key = f"{n:09d}"
                fields = {
                    "key": key,
                    "caption": caption.text,
                    "short": caption.short,
                    **_about(caption.picture),
                }
                _add(tar, f"{key}.png", caption.picture.png)
                _add(tar, f"{key}.txt", caption.text.encode())
                _add(tar, f"{key}.json", json.dumps(fields).encode())


def _about(picture: Picture) -> dict[str, Any]:
    kind = type(picture.scene).__name__.lower()
    scene = {"kind": kind, "grid": picture.grid, **asdict(picture.scene)}
    return {"width": picture.width, "height": picture.width, "scene": scene}


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_pages(folder: Path, seed: int, num: int, num_pictures: int) -> None:
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
    for start in range(0, num, RECORDS_A_FILE):
        numbers = range(start, min(num, start + RECORDS_A_FILE))
        rows = [_row(n, deal.page(seed, n, num_pictures)) for n in numbers]
        path = folder / f"{start // RECORDS_A_FILE:05d}.parquet"
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema), path, compression="NONE"
        )


def _row(n: int, page: tuple[Picture | str, ...]) -> dict[str, Any]:
    return {
        "images": [part.png if isinstance(part, Picture) else None for part in page],
        "texts": [None if isinstance(part, Picture) else part for part in page],
        "metadata": json.dumps(
            [_about(part) if isinstance(part, Picture) else None for part in page]
        ),
        "general_metadata": json.dumps({"url": f"miniature://page/{n}"}),
    }


def write_texts(folder: Path, seed: int, num: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text.text(seed, n)}) + "\n" for n in range(num))
    (folder / "text.jsonl").write_text("".join(lines), encoding="utf-8")


def write_conversations(folder: Path, seed: int, num: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for n in range(num):
        conversation = deal.conversation(seed, n)
        name = f"images/{n:09d}.png"
        (folder / name).write_bytes(conversation.picture.png)
        turns: list[dict[str, str]] = []
        for question, answer in conversation.turns:
            mark = "" if turns else "<image>\n"
            turns += [
                {"from": "human", "value": mark + question},
                {"from": "gpt", "value": answer},
            ]
        records.append({"id": f"{n:09d}", "image": name, "conversations": turns})
    (folder / "llava.json").write_text(json.dumps(records, indent=1), encoding="utf-8")
