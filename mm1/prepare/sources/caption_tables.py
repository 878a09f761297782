"""Image-caption pairs in tables: parquet, CSV, TSV or JSON lines, one pair a row.

    open_clip's CSV         filepath    title   image=filepath caption=title
    img2dataset's parquet   jpg         txt     image=jpg caption=txt
    Hugging Face's parquet  image       text    caption=text; {"bytes", "path"}
    imagefolder's metadata  file_name   text    image=file_name caption=text

The image is given by its bytes, or by a path or URL in one folder. For tars see
`captions`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolderSource
from mm1.prepare.sources import DOT, Record, Unusable, raw_image


class CaptionTables(ImageFolderSource):
    """An image and its caption."""

    EXAMPLE = {"image": DOT, "caption": "A photo of a dog on a beach."}
    PATTERNS = ("*.parquet", "*.csv", "*.tsv", "*.jsonl")

    @dataclass(kw_only=True, slots=True)
    class Config(ImageFolderSource.Config):
        image: str = "image"
        """The column with the image: bytes, {"bytes", "path"}, a path, or a URL."""
        caption: str = "caption"
        """The column with the caption."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        images = self.image_folder(path)
        column = self.config.image
        for record in tables.read_table(
            path, [column, self.config.caption], self.skipped
        ):
            if isinstance(record.data, Unusable):
                yield record
            else:
                image = images.read(record.data.get(column))
                yield Record(record.key, record.data | {column: image})

    def document(self, data: Any) -> Document:
        caption = verify.check_text(data.get(self.config.caption), "caption")
        return Document(
            (raw_image(data[self.config.image]), Text(caption.strip()))
        )
