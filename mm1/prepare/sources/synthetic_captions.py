"""Caption tars with synthetic captions from a table in place of some of their own, the
mix of VeCap (arXiv 2310.07699).

The table is parquet, CSV, TSV or JSON lines, or a folder of these, one caption a row:

    url                        caption
    http://x.org/1.jpg         A brown dog runs along a wet beach at dusk.

A sample is looked up by a field of its json, as img2dataset writes `url`, or by its key
(the name of its members). A `share` of the samples takes the synthetic caption: those
whose lookup key has a small hash, so that the choice is the same in every preparation.
A sample without a row keeps its own caption and is counted.

The table is held in memory. Beyond some ten million rows, give img2dataset the captions
as a further column (`--save_additional_columns`) and prepare them with `captions` and
`field=`.
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
from mm1.ranges import Share
from mm1.storage.remote_path import as_path


class SyntheticCaptions(Captions):
    """An image with its own caption, or with one that a model wrote."""

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
        """The column of the table, and the field of the json, that samples are looked
        up by; `key` is the sample's own key."""
        caption: str = "caption"
        """The column of the table that holds the synthetic caption."""
        share: Share = 0.5
        """The share of samples that take the synthetic caption, from 0 to 1."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    def read(self, path: Path) -> Iterator[Record]:
        for record in super().read(path):
            if isinstance(record.data, Unusable):
                yield record
            else:
                yield Record(record.key, record.data | self._synthetic(record))

    def _synthetic(self, record: Record) -> dict[str, str]:
        """The caption from the table, if this sample is to take it and has one."""
        config = self.config
        if not config.table:
            raise ConfigError(
                "no table of synthetic captions: set source.table=FILE"
            )
        if config.key == "key":
            key = Path(record.key).name
        else:
            key = _json_field(record.data, config.key)
        if not takes_synthetic(key, config.share):
            self.noted["own captions"] += 1
            return {}
        table = tables.load_mapping(
            as_path(config.table), config.key, config.caption
        )
        caption = table.get(key, "").strip()
        self.noted[
            "synthetic captions"
            if caption
            else "own captions, none in the table"
        ] += 1
        return {"synthetic": caption} if caption else {}

    def _caption(self, data: Any) -> Any:
        return (
            data["synthetic"] if "synthetic" in data else super()._caption(data)
        )


def takes_synthetic(key: str, share: float) -> bool:
    content = key.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def _json_field(data: Any, name: str) -> str:
    """A field of the sample's json; empty if there is none."""
    content = data.get("json", b"{}")
    try:
        fields = json.loads(content) if isinstance(content, bytes) else {}
    except (ValueError, RecursionError):
        return ""
    value = fields.get(name) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""
