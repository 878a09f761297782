"""COCO's captions (arXiv 1504.00325), and what has its layout: one JSON file, images in
a folder.

    {"images": [{"id": 9, "file_name": "000000000009.jpg"}, ...],
     "annotations": [{"image_id": 9, "id": 661611, "caption": "A bowl of ..."}, ...]}

Each annotation is a pair; an image has about five. Karpathy's splits are read too:
there an image has its `sentences`, each with `raw`, and lies at `filepath/filename`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.data.document import Document, Text
from mm1.prepare import verify
from mm1.prepare.image_folder import ImageFolder, ImageFolderSource
from mm1.prepare.samples import read_small_file
from mm1.prepare.sources import DOT, Record, Unusable, raw_image

FIELDS = ("images", "annotations")


class CocoCaptions(ImageFolderSource):
    """An image and one of its captions."""

    EXAMPLE = {"image": DOT, "caption": "A photo of a dog on a beach."}
    PATTERNS = ("*.json",)

    @dataclass(kw_only=True, slots=True)
    class Config(ImageFolderSource.Config):
        split: str = ""
        """Of Karpathy's file, the split to read: train, restval, val or test; empty:
        all."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def image_folder(self, file: Path) -> ImageFolder:
        """The config's folder; or `train2017` beside the folder of
        `captions_train2017.json`, as COCO is unpacked; or that of the file."""
        beside = file.parent.parent / file.stem.rpartition("_")[2]
        if not self.config.folder and beside.is_dir():
            return ImageFolder(beside, self.config.urls)
        return super().image_folder(file)

    def read(self, path: Path) -> Iterator[Record]:
        path.stat()
        try:
            pairs = self._pairs(_parse(read_small_file(path)))
        except Unusable as why:
            yield Record("", why)
            return
        folder = self.image_folder(path)
        for key, name, caption in pairs:
            if isinstance(name, Unusable):
                yield Record(key, name)
            else:
                image = folder.read(name)
                yield Record(key, {"image": image, "caption": caption})

    def _pairs(self, data: dict[str, Any]) -> list[tuple[str, Any, Any]]:
        """(key, path of the image or why there is none, caption) of each pair."""
        for field in data.keys() - set(FIELDS):
            self.skipped.add("field", field)
        images = data.get("images")
        annotations = data.get("annotations")
        if not isinstance(images, list):
            raise Unusable("no images", f"the file has {', '.join(data)}")
        if isinstance(annotations, list):
            return self._coco(images, annotations)
        return [
            pair
            for n, image in enumerate(images)
            for pair in self._karpathy(n, image)
        ]

    def _coco(
        self, images: list[Any], annotations: list[Any]
    ) -> list[tuple[str, Any, Any]]:
        names = {
            str(image.get("id")): image.get("file_name")
            for image in images
            if isinstance(image, dict)
        }
        unused = dict.fromkeys(names)
        pairs = []
        for number, each in enumerate(annotations):
            if not isinstance(each, dict):
                why = Unusable(
                    "no annotation", f"it is a {type(each).__name__}"
                )
                pairs.append((str(number), why, None))
                continue
            image = str(each.get("image_id"))
            unused.pop(image, None)
            name = names.get(image) or Unusable(
                "no such image", f"image_id {image}"
            )
            pairs.append(
                (str(each.get("id", number)), name, each.get("caption"))
            )
        for image in unused:
            self.skipped.add("image without a caption", str(names[image]))
        return pairs

    def _karpathy(self, number: int, image: Any) -> list[tuple[str, Any, Any]]:
        sentences = image.get("sentences") if isinstance(image, dict) else None
        if not isinstance(sentences, list):
            why = Unusable("no caption", "the file has no annotations")
            return [(str(number), why, None)]
        name = str(image.get("filename"))
        if self.config.split not in ("", image.get("split")):
            self.skipped.add(f"image of split {image.get('split')}", name)
            return []
        if folder := image.get("filepath"):
            name = f"{folder}/{name}"
        if not sentences:
            self.skipped.add("image without a caption", name)
        return [
            (
                f"{number}.{n}",
                name,
                each.get("raw") if isinstance(each, dict) else None,
            )
            for n, each in enumerate(sentences)
        ]

    def document(self, data: Any) -> Document:
        caption = verify.check_text(data.get("caption"), "caption")
        return Document((raw_image(data["image"]), Text(caption.strip())))


def _parse(content: bytes | Unusable) -> dict[str, Any]:
    if isinstance(content, Unusable):
        raise content
    try:
        data = json.loads(verify.decode_utf8(content))
    except Unusable:
        raise
    except (ValueError, RecursionError) as error:
        raise Unusable("broken JSON", str(error)) from error
    if not isinstance(data, dict):
        raise Unusable("no JSON object", f"the file is a {type(data).__name__}")
    return data
