"""Image-caption pairs in tables: parquet, CSV, TSV or JSON lines, a row a pair.

    open_clip's CSV         filepath    title          image=filepath caption=title
    img2dataset's parquet   jpg         txt            image=jpg caption=txt
    Hugging Face's parquet  image       text           caption=text            image is {"bytes": ..., "path": ...}
    imagefolder's metadata  file_name   text           image=file_name caption=text

The picture is its bytes, or a path in one folder. For tars see `captions`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.sources import DOT, Record, Source, Unusable, found


class CaptionTables(Source):
    """A picture and its caption."""

    EXAMPLE = {"image": DOT, "caption": "A photo of a dog on a beach."}
    PATTERNS = ("*.parquet", "*.csv", "*.tsv", "*.jsonl")

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        image: str = "image"
        """The column with the picture: bytes, {"bytes", "path"}, a path, or a URL."""
        caption: str = "caption"
        """The column with the caption."""
        folder: str = ""
        """Where pictures lie that are given by path or URL; empty: the folder of the
        file."""
        urls: str = ""
        """How pictures of URLs are called there: sha256, basename, or a table; empty:
        they are not looked for."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        pictures = ImageFolder(
            Path(self.config.folder or path.parent), self.config.urls
        )
        image = self.config.image
        for record in tables.rows(path, [image, self.config.caption]):
            if isinstance(record.data, Unusable):
                yield record
            else:
                yield Record(
                    record.key,
                    record.data | {image: pictures.read(record.data.get(image))},
                )

    def document(self, data: Any) -> Document:
        caption = verify.text(data.get(self.config.caption), "caption")
        return Document((found(data[self.config.image]), Text(caption.strip())))
