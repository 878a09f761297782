"""NoCaps (Agrawal et al. 2019, arXiv:1812.08658): captions of pictures with objects
that COCO has no captions of.

    nocaps_val_4500_captions.json   as COCO's, with the images' `domain`:
                                    {"images": [{"id": 0, "open_images_id":
                                    "0013ea2087020901", "domain": "in-domain",
                                                 "file_name": "0013ea2087020901.jpg"},
                                                 ...], "annotations": [...]}

There is no train split; demonstrations come from COCO's captions, which the benchmark
is defined against. Captions of the test split are kept by its authors, so scores are
those of the validation split.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.eval.annotation_files import Folder
from mm1.eval.benchmarks import Split
from mm1.eval.benchmarks.coco import Coco
from mm1.eval.captioning_and_vqa import Captioned
from mm1.eval.cider import cider
from mm1.eval.evaluator import Line


@dataclass(frozen=True, slots=True)
class Placed(Captioned):
    domain: str
    """in-domain, near-domain or out-domain; empty where the file does not say."""


class NoCaps(Coco):
    """CIDEr over all pictures, and over those of each domain alone."""

    def read(
        self, path: Path, data: Any, folder: Folder, split: Split
    ) -> Sequence[Captioned]:
        found = super().read(path, data, folder, split)
        if split == "train":
            return found
        domains = {
            str(image["id"]): image.get("domain", "") for image in data["images"]
        }
        return [
            Placed(each.id, each.picture, each.captions, domains[each.id])
            for each in found
        ]

    def figures(self, lines: Sequence[Line]) -> dict[str, float]:
        """Each domain is scored as if it were the whole set, document frequencies
        included, as its authors do."""
        domain_of = {record.id: record.domain for record in self.test}
        found = {}
        for domain in sorted({domain_of[line["id"]] for line in lines} - {""}):
            own = [line for line in lines if domain_of[line["id"]] == domain]
            found[domain] = cider(
                [line["prediction"] for line in own], [line["answers"] for line in own]
            )[0]
        return found
