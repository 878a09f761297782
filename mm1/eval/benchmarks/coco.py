"""Image captions in COCO's format, scored by CIDEr.

    captions.json   {"images": [{"id": 391895, "file_name": "COCO_val2014_000000391895.jpg"}, ...],
                     "annotations": [{"image_id": 391895, "id": 1, "caption": "A man
                     with a red helmet."}, ...]}

MM1's COCO numbers are taken to be on Karpathy's test split: give the annotations of
those images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import Folder, given, index, one_line
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import Captioned, Captions


class Coco(Captions):
    KEYS = ("images", "annotations")

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Captioned]:
        captions: dict[int, list[str]] = {}
        for annotation in data["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(
                one_line(annotation["caption"])
            )
        found = []
        for number, image in index(data["images"], "id", path).items():
            owner = f"image {number}"
            described = given(
                filter(None, captions.get(number, ())), path, owner, "caption"
            )
            found.append(
                Captioned(
                    str(number), folder.picture(image["file_name"], owner), described
                )
            )
        return found
