"""Caption tars with synthetic captions from a table in place of some of their own, as
VeCap mixes (arXiv 2310.07699).

The table is parquet, CSV, TSV or JSON lines, or a folder of these, one row a caption:

    url                        caption
    http://x.org/1.jpg         A brown dog runs along a wet beach at dusk.

A sample is found in it by a field of its json, as img2dataset writes `url`, or by its
key (the name of its members). `share` of the samples take the synthetic caption: those
with a small hash of what they are found by, so that the choice is the same wherever and
however often they are prepared. A sample without a row keeps its own caption and is
counted.

The table is held in memory. Beyond some ten million rows give img2dataset the synthetic
captions as a further column (`--save_additional_columns`) and prepare them with
`captions` and `field=`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1.config import ConfigError
from mm1.prepare import tables
from mm1.prepare.sources import DOT, Record, Unusable
from mm1.prepare.sources.captions import Captions


class SyntheticCaptions(Captions):
    """A picture with its own caption, or with one that a model wrote."""

    EXAMPLE = {
        "jpg": DOT,
        "txt": b"IMG_2041 best beach!!\n",
        "synthetic": "A brown dog on a wet beach.",
    }

    @dataclass(kw_only=True, slots=True)
    class Config(Captions.Config):
        table: str = ""
        """The table of synthetic captions."""
        key: str = "url"
        """The column of the table that samples are found by, and the field of their
        json; `key` is their own key."""
        caption: str = "caption"
        """The column of the table that holds the synthetic caption."""
        share: float = 0.5
        """The share of samples that take the synthetic caption, from 0 to 1."""

    def __init__(self, config: Config) -> None:
        if not 0 <= config.share <= 1:
            raise ConfigError(
                f"share is a share of samples from 0 to 1, not {config.share}"
            )
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        for record in super().read(path):
            if isinstance(record.data, Unusable):
                yield record
            else:
                yield Record(record.key, record.data | self._synthetic(record))

    def _synthetic(self, record: Record) -> dict[str, str]:
        """The caption from the table, where this sample is one of the share and has
        one."""
        if not self.config.table:
            raise ConfigError("no table of synthetic captions: set table=FILE")
        key = (
            Path(record.key).name
            if self.config.key == "key"
            else _field(record.data, self.config.key)
        )
        if not chosen(key, self.config.share):
            self.noted["own captions"] += 1
            return {}
        caption = (
            tables.lookup(Path(self.config.table), self.config.key, self.config.caption)
            .get(key, "")
            .strip()
        )
        self.noted[
            "synthetic captions" if caption else "own captions, none in the table"
        ] += 1
        return {"synthetic": caption} if caption else {}

    def _caption(self, data: Any) -> Any:
        return data["synthetic"] if "synthetic" in data else super()._caption(data)


def chosen(key: str, share: float) -> bool:
    digest = hashlib.blake2b(
        key.encode("utf-8", "surrogatepass"), digest_size=8
    ).digest()
    return int.from_bytes(digest) < share * 2**64


def _field(data: Any, name: str) -> str:
    """A field of the sample's json; empty where there is none."""
    content = data.get("json", b"{}")
    try:
        fields = json.loads(content) if isinstance(content, bytes) else {}
    except (ValueError, RecursionError):
        return ""
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""
