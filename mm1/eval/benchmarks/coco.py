"""Image captioning in COCO's format, scored by CIDEr.

    captions.json   {"images": [{"id": 391895,
                                 "file_name": "COCO_val2014_000000391895.jpg"}, ...],
                     "annotations": [{"image_id": 391895, "id": 1,
                                      "caption": "A man with a red helmet."}, ...]}

MM1's COCO numbers are assumed to be on Karpathy's test split: give the annotations of
those images.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import (
    BenchmarkImages,
    index_by,
    require_text,
    single_spaced,
)
from mm1.eval.benchmarks import Split
from mm1.eval.captioning_and_vqa import CaptionBenchmark, CaptionedImage


class Coco(CaptionBenchmark):
    KEYS = ("images", "annotations")

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[CaptionedImage]:
        captions: dict[int, list[str]] = {}
        for annotation in data["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(
                single_spaced(annotation["caption"])
            )
        records = []
        for number, image in index_by(data["images"], "id", path).items():
            owner = f"image {number}"
            own = filter(None, captions.get(number, ()))
            records.append(
                CaptionedImage(
                    str(number),
                    images.image_path(image["file_name"], owner),
                    require_text(own, path, owner, "caption"),
                )
            )
        return records
