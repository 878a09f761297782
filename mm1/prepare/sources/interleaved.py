"""Interleaved pages in parquet files as OBELICS has them (arXiv 2306.16527).

One row is a page: the lists `images` and `texts` have the same length, and at each
position exactly one of them is set:

    images  [None,        <bytes>, None,             <bytes>]
    texts   ["Our trip.", None,    "Then the lake.", None   ]

Published OBELICS holds URLs where pictures should be. Fetch them first, then say where
they lie and how they are called (`mm1.prepare.image_folder`): `folder=pictures
urls=sha256`. A picture that is missing, or cannot be read, is left out of its page and
counted; the page stays as long as it has text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Image, Text
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.sources import DOT, Record, Source, Unusable, found


class Interleaved(Source):
    """Text and pictures in reading order."""

    EXAMPLE = {
        "images": [None, DOT, None],
        "texts": ["Our trip to the lake.", None, "The water was cold."],
    }
    PATTERNS = ("*.parquet",)
    PICTURES_MATTER = False

    @dataclass(kw_only=True, slots=True)
    class Config(Source.Config):
        images: str = "images"
        """The column with lists of pictures or null: bytes, {"bytes", "path"} as
        Hugging Face has them, paths, URLs."""
        texts: str = "texts"
        """The column with lists of texts or null."""
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
        for record in tables.rows(path, [self.config.images, self.config.texts]):
            data = record.data
            if isinstance(data, dict) and isinstance(
                images := data.get(self.config.images), list
            ):
                read = [
                    None if image is None else pictures.read(image) for image in images
                ]
                data = data | {self.config.images: read}
            yield Record(record.key, data)

    def document(self, data: Any) -> Document:
        return page(data.get(self.config.images), data.get(self.config.texts))


def page(images: Any, texts: Any) -> Document:
    """Two lists side by side as a document; pictures as `ImageFolder.read` gives them.
    Texts that nothing parts are paragraphs.

    Raises:
        Unusable: these are no such lists.
    """
    if not isinstance(images, list) or not isinstance(texts, list):
        raise Unusable("no lists of images and texts")
    if len(images) != len(texts):
        raise Unusable(
            "lists of different length", f"{len(images)} images, {len(texts)} texts"
        )
    parts: list[Text | Image] = []
    for place, (image, content) in enumerate(zip(images, texts, strict=True)):
        if (image is None) == (content is None):
            both = "neither image nor text" if image is None else "both image and text"
            raise Unusable(f"{both} at one place", f"place {place} of {len(images)}")
        if image is not None:
            parts.append(found(image))
        elif isinstance(content, str) and not content.strip():
            continue
        elif parts and isinstance(last := parts[-1], Text):
            parts[-1] = Text(
                last.content + verify.PARAGRAPH + verify.text(content, "text")
            )
        else:
            parts.append(Text(verify.text(content, "text")))
    return Document(tuple(parts))
