"""Interleaved pages in parquet files as OBELICS has them (arXiv 2306.16527).

One row is a page: the lists `images` and `texts` have the same length, and at each position exactly one of them is set:

    images  [None,        <bytes>, None,             <bytes>]
    texts   ["Our trip.", None,    "Then the lake.", None   ]

Published OBELICS holds URLs where pictures should be: fetch them first and put their bytes in the same place. A picture
that is a URL, or cannot be read, is left out of its page and counted; the page stays as long as it has text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.config import ConfigError, nearest
from mm1.data import verify
from mm1.data.document import Document, Image, Text
from mm1.data.sources import DOT, Record, Source, Unusable, found

ROWS = 4
"""Rows that are read at a time: a page may hold dozens of pictures."""


class Interleaved(Source):
    """Text and pictures in reading order."""

    EXAMPLE = {"images": [None, DOT, None], "texts": ["Our trip to the lake.", None, "The water was cold."]}
    PATTERNS = ("*.parquet",)
    PICTURES_MATTER = False

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        images: str = "images"
        """The column with lists of pictures: bytes, or {"bytes": ...} as Hugging Face stores them, or null."""
        texts: str = "texts"
        """The column with lists of texts or null."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number = 0
        with path.open("rb") as file:
            try:
                # Without the pre-buffer: it would hold all the pictures of a row group in memory.
                parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            except (pa.ArrowException, OSError) as error:
                yield Record("", Unusable("not a parquet file", str(error)))
                return
            columns = [self.config.images, self.config.texts]
            for column in columns:
                if column not in (known := parquet.schema_arrow.names):
                    raise ConfigError(f"{path} has no column {column!r}{nearest(column, known)}")
            try:
                for batch in parquet.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
                    for row in range(batch.num_rows):
                        yield Record(str(number), _row(batch.slice(row, 1)))
                        number += 1
            except (pa.ArrowException, OSError) as error:
                yield Record(str(number), Unusable("damaged parquet file", f"nothing is read from here on: {error}"))

    def document(self, data: Any) -> Document:
        images, texts = data[self.config.images], data[self.config.texts]
        if not isinstance(images, list) or not isinstance(texts, list):
            raise Unusable("no lists of images and texts")
        if len(images) != len(texts):
            raise Unusable("lists of different length", f"{len(images)} images, {len(texts)} texts")
        parts: list[Text | Image] = []
        for place, (image, content) in enumerate(zip(images, texts, strict=True)):
            if (image is None) == (content is None):
                both = "neither image nor text" if image is None else "both image and text"
                raise Unusable(f"{both} at one place", f"place {place} of {len(images)}")
            if image is not None:
                parts.append(_picture(image))
            elif isinstance(content, str) and not content.strip():
                continue
            elif parts and isinstance(last := parts[-1], Text):
                parts[-1] = Text(last.content + verify.PARAGRAPH + verify.text(content, "text"))
            else:
                parts.append(Text(verify.text(content, "text")))
        return Document(tuple(parts))


def _row(batch: Any) -> Any:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError as error:
        return Unusable("not UTF-8", str(error))


def _picture(value: Any) -> Image:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or b""
    if not isinstance(value, (bytes, str)):
        raise Unusable("no image", f"it is a {type(value).__name__}, not bytes")
    return found(value)
