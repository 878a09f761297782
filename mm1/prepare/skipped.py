"""What a source meets and leaves alone because it is not of its kind, by name.

Every member, file, column and part that is read ends in a document, in the list of
drops, or here. Preparing prints these counts, and the manifest has them as `skipped`:

    {"symbolic link": {"count": 12, "names": ["a/00017.jpg", "a/00018.jpg"]}, ...}
"""

from collections.abc import Mapping
from typing import Any

from mm1.prepare.bounded_text import escape, shorten

MAX_KINDS = 100
MAX_NAMES = 10
"""Of each kind the first names are kept."""
SHOWN_NAMES = 3
MAX_CHARACTERS = 200
"""Of a kind or a name: both come from the data."""
OTHER = "other"
"""The kind of everything beyond `MAX_KINDS`."""


class Skipped:
    """Counts by kind, with the first names of each; bounded whatever the data.

    A source adds to its own: `self.skipped.add("hard link", member.name)`. A kind says
    what a thing is, in the singular, and is the same for many; a name says which.
    """

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Count something of a kind. Of one name, such as a column that many rows
        have, `count` may be more."""
        self._merge(kind, [name], count)

    def update(self, other: "Skipped") -> None:
        for kind, count in other.counts.items():
            self._merge(kind, other.names[kind], count)

    def _merge(self, kind: str, names: list[str], count: int) -> None:
        kind = shorten(escape(kind), MAX_CHARACTERS)
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            kind = OTHER
        self.counts[kind] = self.counts.get(kind, 0) + count
        known = self.names.setdefault(kind, [])
        for name in names:
            short = shorten(escape(name), MAX_CHARACTERS)
            if len(known) < MAX_NAMES and short not in known:
                known.append(short)

    def to_json(self) -> dict[str, Any]:
        """Kinds with their counts and names, the most frequent first."""
        kinds = sorted(self.counts, key=lambda kind: -self.counts[kind])
        return {
            kind: {"count": self.counts[kind], "names": self.names[kind]}
            for kind in kinds
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Skipped":
        skipped = Skipped()
        for kind, each in value.items():
            skipped._merge(kind, each["names"], each["count"])
        return skipped


def describe_skipped(skipped: Mapping[str, Any]) -> str:
    """The counts of a manifest in one line; empty if there are none."""
    return ", ".join(
        f"{each['count']:,} {kind} ({_list(each['names'], each['count'])})"
        for kind, each in skipped.items()
    )


def _list(names: list[str], count: int) -> str:
    more = ", ..." if count > min(len(names), SHOWN_NAMES) else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
