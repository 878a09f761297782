"""Interleaved pages with OBELICS's layout (arXiv 2306.16527): in parquet files, a row a
page, or in tars, a json a page, as MINT-1T has its PDF and arXiv pages
(`mm1.prepare.page_tars`).

On a page the lists `images` and `texts` have the same length, and at each
position exactly one of them is set:

    images  [None,        <bytes>, None,             <bytes>]
    texts   ["Our trip.", None,    "Then the lake.", None   ]

Published OBELICS has URLs in place of images. Download them first, then say where they
are and how they are named (`mm1.prepare.image_folder`): `folder=pictures urls=sha256`.
An image that is missing or unreadable is left out of its page and counted; the page
stays as long as it has text.

Where its extraction met a link to another article, OBELICS has `END_OF_DOCUMENT` in a
text, for the reader to replace. A page with it becomes several records, one for each
article. None was found in the repositories of MMC4, OmniCorpus and CoMM.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Image, Text
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolder, ImageFolderSource
from mm1.prepare.page_tars import TarImages, TarPage, read_pages
from mm1.prepare.sources import (
    DOT,
    MissingImage,
    Record,
    Unusable,
    raw_image,
)

END_OF_DOCUMENT = "END_OF_DOCUMENT_TOKEN_TO_BE_REPLACED"
"""Another article begins here (arXiv 2306.16527, appendix A.1.2)."""


class Interleaved(ImageFolderSource):
    """Text and images in reading order."""

    EXAMPLE = {
        "images": [None, DOT, None],
        "texts": ["Our trip to the lake.", None, "The water was cold."],
    }
    PATTERNS = ("*.parquet", "*.tar")
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
        images = self.config.images
        texts = self.config.texts
        for record in self._records(path, folder):
            if isinstance(record.data, Unusable):
                yield record
                continue
            articles = split_articles(
                record.data.get(images), record.data.get(texts)
            )
            for key, (pictures, words) in numbered(record.key, articles):
                if isinstance(pictures, list):
                    pictures = [
                        picture
                        if picture is None or isinstance(picture, Image)
                        else folder.read(picture)
                        for picture in pictures
                    ]
                yield Record(key, {images: pictures, texts: words})

    def _records(self, path: Path, folder: ImageFolder) -> Iterator[Record]:
        columns = [self.config.images, self.config.texts]
        if path.suffix.lower() != ".tar":
            yield from tables.read_table(path, columns, self.skipped)
            return
        others = tables.OtherColumns(columns, self.skipped)
        members = TarImages(path)
        for record in read_pages(path, members, self.skipped, self.noted):
            page = record.data
            if isinstance(page, TarPage):
                others.see(page.data)
                column = self.config.images
                images = _images_of(page, column, members, folder)
                yield Record(record.key, page.data | {column: images})
            else:
                yield record

    def document(self, data: Any) -> Document:
        return parse_interleaved_page(
            data.get(self.config.images), data.get(self.config.texts)
        )


def _images_of(
    page: TarPage, column: str, members: TarImages, folder: ImageFolder
) -> Any:
    """The list of a page's images, read: as many as its own files hold, in their
    order, or else by their names in the tar or the folder."""
    values = page.data.get(column)
    if not isinstance(values, list):
        return values
    places = [n for n, value in enumerate(values) if value is not None]
    frames = page.frames() if places else []
    if len(frames) == 1 and isinstance(frames[0], MissingImage):
        found = dict.fromkeys(places, frames[0])
    elif len(frames) == len(places):
        found = dict(zip(places, frames, strict=True))
    else:
        found = {
            n: _image_named(values[n], len(frames), len(places), members)
            or folder.read(values[n])
            for n in places
        }
    return [found.get(n) for n in range(len(values))]


def _image_named(
    value: Any, num_frames: int, num_places: int, members: TarImages
) -> Image | None:
    image = members.read(value) if isinstance(value, str) else None
    if image is None and num_frames:
        detail = f"{num_frames} in its file, {num_places} on the page"
        return raw_image(Unusable("images of file and page differ", detail))
    return image


def split_articles(images: Any, texts: Any) -> list[tuple[Any, Any]]:
    """The articles of a page, which `END_OF_DOCUMENT` separates, as parallel lists
    again.

    Empty articles are left out, unless there are no others. Lists of another form come
    back as they are, for `parse_interleaved_page` to refuse.
    """
    are_parallel = isinstance(images, list) and isinstance(texts, list)
    if not are_parallel or len(images) != len(texts):
        return [(images, texts)]
    articles: list[tuple[list[Any], list[Any]]] = [([], [])]
    for image, text in zip(images, texts, strict=True):
        is_marked = image is None and isinstance(text, str)
        pieces = text.split(END_OF_DOCUMENT) if is_marked else [text]
        for number, piece in enumerate(pieces):
            if number:
                articles.append(([], []))
            if len(pieces) == 1 or piece.strip():
                articles[-1][0].append(image)
                articles[-1][1].append(
                    piece if len(pieces) == 1 else piece.strip()
                )
    return [article for article in articles if article[0]] or articles[:1]


def numbered(key: str, parts: list[Any]) -> Iterator[tuple[str, Any]]:
    """The parts of a record with their keys: `7` alone, or `7.1`, `7.2` ..."""
    for number, part in enumerate(parts, 1):
        yield (key if len(parts) == 1 else f"{key}.{number}"), part


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
