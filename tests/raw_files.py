"""Raw data as strangers have it, in miniature: tars, parquet files, JSON and JPEGs for
the tests of preparing."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow


def jpeg(
    seed: int = 0, size: tuple[int, int] = (12, 9), kind: str = "JPEG"
) -> bytes:
    """A picture of noise, `size` = (width, height)."""
    noise = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0], 3), dtype=np.uint8
    )
    buffer = io.BytesIO()
    Pillow.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def pairs(count: int, start: int = 0) -> list[tuple[str, bytes]]:
    """Members of whole samples: a picture and a caption each."""
    numbers = range(start, start + count)
    return [
        m
        for i in numbers
        for m in (
            (f"{i:04}.jpg", jpeg(i)),
            (f"{i:04}.txt", f"picture number {i}\n".encode()),
        )
    ]


def write_pages(path: Path, pages: Sequence[Mapping[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        {"images": pa.list_(pa.binary()), "texts": pa.list_(pa.string())}
    )
    pq.write_table(
        pa.Table.from_pylist(list(pages), schema), path, row_group_size=3
    )
    return path


def write_lines(path: Path, records: Iterable[Any]) -> Path:
    """JSON lines; bytes are written as they are."""
    lines = [
        r if isinstance(r, bytes) else json.dumps(r).encode() for r in records
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def chat(question: str, answer: str, **fields: Any) -> dict[str, Any]:
    """One exchange in LLaVA's layout."""
    return {
        "conversations": [
            {"from": "human", "value": question},
            {"from": "gpt", "value": answer},
        ],
        **fields,
    }
