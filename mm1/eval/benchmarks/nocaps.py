"""NoCaps (Agrawal et al. 2019, arXiv:1812.08658): captioning of images with objects
that COCO's captions do not mention.

    nocaps_val_4500_captions.json   in COCO's format, with a `domain` for each image:
        {"images": [{"id": 0, "open_images_id": "0013ea2087020901",
                     "domain": "in-domain", "file_name": "0013ea2087020901.jpg"}, ...],
         "annotations": [...]}

There is no train split; demonstrations come from COCO's captions, against which the
benchmark is defined. The test captions are not public, so scores are on the validation
split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import BenchmarkImages
from mm1.eval.benchmarks import Split
from mm1.eval.benchmarks.coco import Coco
from mm1.eval.captioning_and_vqa import CaptionedImage
from mm1.eval.cider import cider
from mm1.eval.evaluator import Line


@dataclass(frozen=True, slots=True)
class NoCapsImage(CaptionedImage):
    domain: str
    """in-domain, near-domain or out-domain; empty where the file has none."""


class NoCaps(Coco):
    """CIDEr over all images, and over those of each domain."""

    def read(
        self, path: Path, data: Any, images: BenchmarkImages, split: Split
    ) -> Sequence[CaptionedImage]:
        records = super().read(path, data, images, split)
        if split == "train":
            return records
        domains = {
            str(image["id"]): image.get("domain", "")
            for image in data["images"]
        }
        return [
            NoCapsImage(r.id, r.image, r.captions, domains[r.id])
            for r in records
        ]

    def extra_metrics(self, lines: Sequence[Line]) -> dict[str, float]:
        """CIDEr of each domain, with document frequencies of that domain alone, as its
        authors compute it."""
        domain_of = {record.id: record.domain for record in self.test}
        scores = {}
        for domain in sorted({domain_of[line["id"]] for line in lines} - {""}):
            own = [line for line in lines if domain_of[line["id"]] == domain]
            scores[domain] = cider(
                [line["prediction"] for line in own],
                [line["answers"] for line in own],
            )[0]
        return scores
