"""Interleaved pages in parquet files with OBELICS's layout (arXiv 2306.16527).

One row is a page: the lists `images` and `texts` have the same length, and at each
position exactly one of them is set:

    images  [None,        <bytes>, None,             <bytes>]
    texts   ["Our trip.", None,    "Then the lake.", None   ]

Published OBELICS has URLs in place of images. Download them first, then say where they
are and how they are named (`mm1.prepare.image_folder`): `folder=pictures urls=sha256`.
An image that is missing or unreadable is left out of its page and counted; the page
stays as long as it has text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Image, Text
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolderSource
from mm1.prepare.sources import DOT, Record, Unusable, raw_image


class Interleaved(ImageFolderSource):
    """Text and images in reading order."""

    EXAMPLE = {
        "images": [None, DOT, None],
        "texts": ["Our trip to the lake.", None, "The water was cold."],
    }
    PATTERNS = ("*.parquet",)
    IMAGES_REQUIRED = False

    @dataclass(kw_only=True, slots=True)
    class Config(ImageFolderSource.Config):
        images: str = "images"
        """The column with lists of images or null: bytes, Hugging Face's {"bytes",
        "path"}, paths, URLs."""
        texts: str = "texts"
        """The column with lists of texts or null."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        folder = self.image_folder(path)
        column = self.config.images
        for record in tables.read_table(
            path, [column, self.config.texts], self.skipped
        ):
            data = record.data
            if isinstance(data, dict) and isinstance(data.get(column), list):
                images = [
                    None if image is None else folder.read(image)
                    for image in data[column]
                ]
                data = data | {column: images}
            yield Record(record.key, data)

    def document(self, data: Any) -> Document:
        return parse_interleaved_page(
            data.get(self.config.images), data.get(self.config.texts)
        )


def parse_interleaved_page(images: Any, texts: Any) -> Document:
    """Two parallel lists as a document; images as `ImageFolder.read` returns them.

    Consecutive texts become paragraphs of one text.

    Raises:
        Unusable: the lists are not of this form.
    """
    if not isinstance(images, list) or not isinstance(texts, list):
        raise Unusable("no lists of images and texts")
    if len(images) != len(texts):
        raise Unusable(
            "lists of different length",
            f"{len(images)} images, {len(texts)} texts",
        )
    parts: list[Text | Image] = []
    for place, (image, content) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (content is None):
            both = (
                "neither image nor text"
                if image is None
                else "both image and text"
            )
            raise Unusable(
                f"{both} at one place", f"place {place} of {len(images)}"
            )
        if image is not None:
            parts.append(raw_image(image))
            continue
        if isinstance(content, str) and not content.strip():
            continue
        content = verify.check_text(content, "text")
        if parts and isinstance(last := parts[-1], Text):
            parts[-1] = Text(last.content + verify.PARAGRAPH + content)
        else:
            parts.append(Text(content))
    return Document(tuple(parts))
