"""The runs of a study: each distinct config once, in a folder named by its hash.

    <out>/runs/pretrain-3f9c0a71e2/        a run folder, which also holds
                    log.txt                its output
                    attempts.jsonl         a line for each start: seconds, exit code
    <out>/runs/pretrain-3f9c0a71e2.json    its config

Rows with equal configs share a run, across studies too, and a finished run is not
trained again. If the config changes, or that of a run that it starts from, the folder
does.
"""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1.config import ConfigError, nearest
from mm1.files import file_name, read_jsonl
from mm1.overrides import override
from mm1.train.origins import adopt_architectures, origin_runs
from mm1.train.trainer import Trainer

DIVERGED_CODE = 3
"""The exit code of `mm1 train` when the gradient stayed non-finite."""


class StudyPlan:
    """The runs of a study in the order they were added: a run comes after those that it
    starts from."""

    def __init__(self, folder: Path, overrides: Sequence[str] = ()) -> None:
        """`overrides` are `STAGE:a.b=value` for the runs of one stage, or `a.b=value`
        for all runs."""
        self.folder = folder
        self.runs: dict[str, Trainer.Config] = {}
        self.stages: dict[str, str] = {}
        self.overrides = [_override(text) for text in overrides]

    def add(self, stage: str, config: Trainer.Config) -> str:
        """Adds a run and returns its folder, which other runs name in their `init`.

        Parts that an override initialises from another run take its shape, as in `mm1
        train`.

        Raises:
            ConfigError: an override does not fit the config, or the stage's name cannot
                be that of a folder.
        """
        config = copy.deepcopy(config)
        before = origin_runs(config.init)
        own = [
            text for chosen, text in self.overrides if chosen in (None, stage)
        ]
        for assignment in own:
            override(config, assignment)
        changed = {
            part: origin
            for part, origin in origin_runs(config.init).items()
            if before.get(part) != origin
        }
        adopt_architectures(config, changed, own)
        content = configs.to_text(config).replace(str(self.folder), "")
        name = f"{stage}-{hashlib.blake2b(content.encode(), digest_size=5).hexdigest()}"
        folder = str(self.folder / "runs" / file_name(name, "stage"))
        self.stages[folder] = stage
        self.runs[folder] = config
        return folder

    def check(self) -> None:
        """Raises ConfigError if an override is for a stage that no run has."""
        for chosen, assignment in self.overrides:
            if chosen is not None and chosen not in self.stages.values():
                raise ConfigError(
                    f"{chosen}:{assignment}: no run has the stage"
                    f" {chosen!r}{nearest(chosen, self.stages.values())}"
                )

    def origins(self, folder: str) -> list[str]:
        """The runs of this plan that it starts from."""
        return [
            origin
            for origin in dict.fromkeys(self.runs[folder].init.values())
            if origin in self.runs
        ]

    def difference(self, old: str, new: str) -> dict[str, tuple[Any, Any]]:
        """The differences between the configs of two runs.

        Where they start from different runs, the differences of those take the place of
        the folders.
        """
        changes = configs.differences(self.runs[old], self.runs[new])
        origins: dict[tuple[str, str], list[str]] = {}
        for key, (a, b) in list(changes.items()):
            if key.startswith("init.") and a in self.runs and b in self.runs:
                del changes[key]
                origins.setdefault((a, b), []).append(key.removeprefix("init."))
        for (a, b), parts in origins.items():
            where = f"(run of {' and '.join(parts)})"
            changes |= {
                f"{key} {where}": values
                for key, values in self.difference(a, b).items()
            }
        return changes


def _override(text: str) -> tuple[str | None, str]:
    """(stage or None, assignment)."""
    key, equals, value = text.partition("=")
    stage, colon, rest = key.rpartition(":")
    return (stage if colon else None), rest + equals + value


ATTEMPTS = "attempts.jsonl"


def attempts(folder: str | Path) -> list[dict[str, Any]]:
    """How the run's process ended, for each time it was started."""
    return read_jsonl(Path(folder) / ATTEMPTS)


def diverged(folder: str | Path) -> bool:
    """Whether the run's last attempt diverged, as another one would."""
    earlier = attempts(folder)
    return bool(earlier) and earlier[-1]["code"] == DIVERGED_CODE


def wall_seconds(folder: str | Path) -> float:
    """Wall time of all attempts at a run."""
    return sum(attempt["seconds"] for attempt in attempts(folder))
