"""The folder that `mm1 deduplicate` writes: which records of which raw files are
copies, for `prepare` to drop.

    manifest.json          the source, the filters and the raw files that were compared
    verdicts/00000.jsonl   for each file, in their order, a line for each record to drop

    {"record": 41, "key": "42", "reason": "near-duplicate", "detail": "0.95 like a#7"}

`record` is the place of the record in its file, from 0: keys may repeat.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.files import read_jsonl, read_object
from mm1.prepare.sources import Record, Unusable
from mm1.storage.remote_path import as_path

REMEDY = "delete the folder, and run `mm1 deduplicate` again"


def verdict_path(folder: Path, number: int) -> Path:
    return folder / "verdicts" / f"{number:05}.jsonl"


class FileVerdicts:
    """The verdicts on one file, looked up record by record in their order."""

    def __init__(self, file: Path, folder: str) -> None:
        """With no `folder` there are none.

        Raises:
            ConfigError: the folder has none for this file.
        """
        self.file = file
        self.folder = folder
        self.left = self._read() if folder else {}

    def _read(self) -> dict[int, dict[str, Any]]:
        manifest = as_path(self.folder) / "manifest.json"
        changed = manifest.stat().st_mtime_ns if manifest.is_file() else 0
        number = file_numbers(self.folder, changed).get(str(self.file))
        if number is None:
            raise ConfigError(
                f"{self.folder} has no verdicts on {self.file}: name the raw files as"
                " `mm1 deduplicate` was given them"
            )
        path = verdict_path(as_path(self.folder), number)
        if not path.is_file():
            raise ConfigError(f"{path} is missing: {REMEDY}")
        return {row["record"]: row for row in read_jsonl(path)}

    def check(self, place: int, record: Record) -> None:
        """Raises `Unusable` if the record is to be dropped."""
        if (row := self.left.pop(place, None)) is None:
            return
        if row["key"] != record.key:
            raise ConfigError(
                f"{self.file}#{record.key} is {row['key']!r} in {self.folder}: {REMEDY}"
            )
        raise Unusable(row["reason"], row["detail"])

    def check_complete(self) -> None:
        """Raises ConfigError if there are verdicts on records that were not read."""
        if self.left:
            row = next(iter(self.left.values()))
            raise ConfigError(
                f"{self.file} ends before record {row['key']!r}, which {self.folder}"
                f" names: {REMEDY}"
            )


@lru_cache(maxsize=1)
def file_numbers(folder: str, changed: int) -> dict[str, int]:
    """File -> number, read once as long as the manifest is of one time."""
    inputs = read_verdicts(as_path(folder))["inputs"]
    return {each["file"]: number for number, each in enumerate(inputs)}


def read_verdicts(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of verdicts.

    Raises:
        ConfigError: it is something else, or not finished.
    """
    path = folder / "manifest.json"
    manifest = read_object(path, REMEDY) if path.is_file() else {}
    if "verdicts" not in manifest:
        raise ConfigError(
            f"{folder} is not a finished folder of `mm1 deduplicate`"
            " (filters.duplicates.verdicts)"
        )
    return manifest


def check_verdicts(folder: Path, plan: dict[str, Any]) -> None:
    """Raises ConfigError unless the verdicts are on the records of this plan: a copy
    may be dropped only where the record that is kept is."""
    manifest = read_verdicts(folder)
    for part, prefix in (("config", "source"), ("filters", "filters")):
        before = _options(manifest[part], prefix)
        now = _options(plan[part], prefix)
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise ConfigError(
                    f"{folder} was made with {key}={before.get(key)!r}, and not"
                    f" {now.get(key)!r}: give `mm1 deduplicate` and `mm1 prepare` the"
                    " same options"
                )
    _check_inputs(folder, manifest["inputs"], plan["inputs"])


def _options(config: Any, prefix: str) -> dict[str, Any]:
    options = configs.flatten(configs.from_json(config), prefix)
    options.pop("filters.duplicates.verdicts", None)
    return options


def _check_inputs(
    folder: Path,
    before: Sequence[dict[str, Any]],
    now: Sequence[dict[str, Any]],
) -> None:
    known = {each["file"]: each for each in before}
    for each in now:
        if known.get(each["file"], each) != each:
            raise ConfigError(
                f"{each['file']} has changed since {folder} was made: {REMEDY}"
            )
        if each["file"] not in known:
            raise ConfigError(
                f"{folder} has no verdicts on {each['file']}: name the raw files as"
                " `mm1 deduplicate` was given them"
            )
