"""Where checkpoints are kept: a run folder has each as a folder of its own, which is
written aside and renamed."""

import errno
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm1.checksums import (
    CHECKSUMS,
    Checksum,
    find_damage,
    noted_checksums,
    write_checksums,
)
from mm1.config import ConfigError
from mm1.files import (
    durable_rename,
    read_object,
    remove,
    sync,
    unfinished_path,
)
from mm1.runs.layout import (
    CHECKPOINTS,
    METRICS,
    SPEED,
    checkpoint_path,
    checkpoint_steps,
)
from mm1.train.agreement import seen_in_time
from mm1.train.checkpoint_reader import (
    REMEDY,
    CheckpointReader,
)
from mm1.train.checkpoint_writer import PROGRESS, CheckpointWriter

Noted = Mapping[str, list[Checksum]]
"""File name -> the checksums that it may have."""


class CheckpointFiles(ABC):
    """The checkpoints of one run. Each rank calls `writer`, `reader`, `damage` and
    `progress` for itself, rank 0 the others for all."""

    MAKE_ROOM: str
    """What to do where checkpoints cannot be saved."""

    name: str
    """Of the run, in messages."""

    @abstractmethod
    def path(self, step: int) -> Path:
        """In messages."""

    @abstractmethod
    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, in order."""

    @abstractmethod
    def clean(self) -> None:
        """Deletes what killed processes have left unfinished."""

    @abstractmethod
    def clear(self, step: int) -> None:
        """Deletes what an earlier attempt has left where `writer` writes."""

    @abstractmethod
    def writer(self, step: int, progress: dict[str, Any]) -> CheckpointWriter:
        """What writes this rank's files; they do not count yet."""

    @abstractmethod
    def publish(self, step: int, checksums: Mapping[str, Checksum]) -> None:
        """Makes a checkpoint count that all ranks have written.

        Raises:
            OSError: what another rank has written is not there to see.
        """

    @abstractmethod
    def drop(self, step: int) -> None:
        """Deletes a checkpoint; one that is half deleted does not count."""

    @abstractmethod
    def abandon(self, step: int) -> str:
        """Deletes what could not be written; says what room there is."""

    @abstractmethod
    def noted(self, step: int) -> Noted:
        """Its checksums; empty where none are noted. Raises ConfigError if the list of
        them is damaged."""

    @abstractmethod
    def damage(self, step: int, name: str, noted: Noted) -> str:
        """What is wrong with one of its files, empty if nothing is."""

    @abstractmethod
    def set_aside(self, step: int) -> str:
        """Keeps a damaged checkpoint from being used; returns where it is now."""

    @abstractmethod
    def reader(self, step: int) -> CheckpointReader:
        """Raises ConfigError: its list of shards is damaged."""

    @abstractmethod
    def progress(self, step: int) -> dict[str, Any]:
        """Raises ConfigError: the file is damaged."""

    def unnoted(self, step: int, noted: Noted) -> str:
        """A file that the list of shards names, and that has no checksum, in words;
        empty if there is none."""
        try:
            entries = self.reader(step).metadata.storage_data or {}
        except ConfigError:
            return ""  # is said when the checkpoint is loaded
        names = {entry.relative_path for entry in entries.values()}
        missing = sorted(names - noted.keys())
        return f"{missing[0]} is not in {CHECKSUMS}" if missing else ""


class CheckpointFolder(CheckpointFiles):
    """The checkpoints of a run folder."""

    MAKE_ROOM = "make room"

    def __init__(self, run: Path) -> None:
        self.run = run
        self.name = str(run)

    def path(self, step: int) -> Path:
        return checkpoint_path(self.run, step)

    def steps(self) -> list[int]:
        return checkpoint_steps(self.run)

    def clean(self) -> None:
        for path in (self.run / CHECKPOINTS).glob("*.unfinished"):
            remove(path)

    def clear(self, step: int) -> None:
        remove(unfinished_path(self.path(step)))

    def writer(self, step: int, progress: dict[str, Any]) -> CheckpointWriter:
        return CheckpointWriter(unfinished_path(self.path(step)), progress)

    def publish(self, step: int, checksums: Mapping[str, Checksum]) -> None:
        path = self.path(step)
        temporary = unfinished_path(path)
        for name in checksums:
            if not seen_in_time((temporary / name).is_file):
                raise FileNotFoundError(
                    errno.ENOENT,
                    f"{name}, which another rank has written, is not there: do all"
                    " machines see the same folder?",
                )
        write_checksums(temporary, checksums)
        for name in (METRICS, SPEED):
            if (self.run / name).is_file():
                # A resumed run relies on the lines before its checkpoint.
                sync(self.run / name)
        remove(path)
        durable_rename(temporary, path)

    def drop(self, step: int) -> None:
        # Renamed first: one that is half deleted must not look whole.
        old = self.path(step)
        remove(unfinished_path(old))
        old.rename(unfinished_path(old))
        remove(unfinished_path(old))

    def abandon(self, step: int) -> str:
        shutil.rmtree(unfinished_path(self.path(step)), ignore_errors=True)
        return f", {shutil.disk_usage(self.run).free:,} are free"

    def noted(self, step: int) -> Noted:
        return noted_checksums(self.path(step))

    def damage(self, step: int, name: str, noted: Noted) -> str:
        return find_damage(self.path(step) / name, noted)

    def set_aside(self, step: int) -> str:
        path = self.path(step)
        aside = path.with_name(f"{path.name}.damaged")
        remove(aside)
        path.rename(aside)
        return aside.name

    def reader(self, step: int) -> CheckpointReader:
        return CheckpointReader(self.path(step))

    def progress(self, step: int) -> dict[str, Any]:
        return read_object(self.path(step) / PROGRESS, REMEDY)
