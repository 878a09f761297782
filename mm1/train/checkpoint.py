"""Checkpoints: model, optimizer and progress in one folder, written aside and renamed
when complete.

`torch.distributed.checkpoint` writes each rank's shards while training continues, and
loads them on any number of ranks. It pickles the list of shards, `.metadata`, and
whatever is no tensor; `mm1.train.checkpoint_reader` reads both so that nothing in a
stranger's checkpoint runs.

    checkpoints/step-00000200/   .metadata  __0_0.distcp ...  progress.json
                                 checksums.json, which is written last

A checkpoint that is damaged is set aside as `step-00000200.damaged`, and the one before
it is used. One that cannot be saved, as the disk is full, costs no step: training goes
on and tries again.
"""

import errno
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from mm1 import dist
from mm1.checksums import (
    CHECKSUMS,
    find_damage,
    noted_checksums,
    write_checksums,
)
from mm1.config import ConfigError, UserError
from mm1.files import (
    durable_rename,
    read_object,
    remove,
    sync,
    unfinished_path,
)
from mm1.nn.model import Model
from mm1.nn.shards import fused_widths
from mm1.runs.layout import (
    CHECKPOINTS,
    METRICS,
    SPEED,
    checkpoint_path,
    checkpoint_steps,
)
from mm1.train.agreement import seen_in_time
from mm1.train.checkpoint_planners import RegionSavePlanner
from mm1.train.checkpoint_reader import load_state, read_metadata
from mm1.train.checkpoint_writer import PROGRESS, CheckpointWriter
from mm1.train.optimizers import Optimizer

MAX_FAILED_SAVES = 3
"""In a row; then training stops, as it could lose too much."""

SAVE_PATIENCE = timedelta(hours=1)
"""Ranks wait so long for the slowest one to write its files."""


class SaveFailed(UserError):
    """Checkpoints cannot be saved: there may be room again later, when what launched
    the run tries again."""

    exit_code = 74
    """`EX_IOERR` of <sysexits.h>; a mistake of the user's is 2, which is final."""


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        # Checkpoints are written in a thread, whose collectives must not mix with those
        # of training.
        self.group: Any = None
        self.pending: tuple[Future, CheckpointWriter, Path] | None = None
        self.stager = _new_stager()
        self.num_failed = 0
        """Saves that failed in a row."""

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, in order."""
        return checkpoint_steps(self.folder)

    def save(
        self,
        step: int,
        model: Model,
        optimizer: Optimizer,
        progress: dict[str, Any],
    ) -> None:
        """Starts writing; the checkpoint counts once `settle` or `finish` has seen that
        it is complete.

        Raises:
            SaveFailed: the one before could not be saved, nor those before it.
        """
        self.finish()
        path = checkpoint_path(self.folder, step)
        dist.on_rank_zero(lambda: remove(unfinished_path(path)))
        writer = CheckpointWriter(unfinished_path(path), progress)
        if self.group is None:
            self.group = torch.distributed.new_group(
                backend="gloo", timeout=SAVE_PATIENCE
            )
        if _is_closed(self.stager):
            self.stager = _new_stager()
        state = _state(model, optimizer)
        # The config has its options; parameters may be grouped otherwise next time.
        del state["optimizer"]["param_groups"]
        future: Any = dcp.async_save(
            state,
            storage_writer=writer,
            planner=RegionSavePlanner(fused_widths(model)),
            process_group=self.group,
            async_stager=self.stager,
        )
        self.pending = (future, writer, path)

    def settle(self) -> None:
        """Makes the checkpoint count if all ranks have written it, without waiting;
        every rank must call this."""
        if self.pending is not None and dist.all_true(self.pending[0].done()):
            self.finish()

    def finish(self, *, may_fail: bool = False) -> None:
        """Waits for the checkpoint being written, renames it and deletes the oldest
        beyond `keep`. One that could not be written leaves the others as they are.

        Raises:
            SaveFailed: `MAX_FAILED_SAVES` could not be written in a row, unless it
                `may_fail`, as training ends anyway.
        """
        if self.pending is None:
            return
        future, writer, path = self.pending
        self.pending = None
        ranks = dist.all_gather_objects(
            (_failure(future), writer.checksums, writer.num_bytes)
        )
        checksums = {k: v for _, each, _ in ranks for k, v in each.items()}
        try:
            for failure, _, _ in ranks:
                if failure is not None:
                    raise failure
            dist.on_rank_zero(lambda: self._publish(path, checksums))
            self.num_failed = 0
        except OSError as error:
            self._fail(path, error, sum(each[2] for each in ranks), may_fail)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the threads of the group that checkpoints are written in, unless one is
        still being written."""
        if self.group is not None and self.pending is None:
            torch.distributed.destroy_process_group(self.group)
            self.group = None
        if self.pending is None:
            self.stager.close()

    def ensure(self, step: int, save: Callable[[], None]) -> None:
        """Waits until there is a checkpoint of this step, the last one of this attempt;
        saves one if need be. A collective: all ranks must call it."""
        self.finish(may_fail=True)
        if step not in dist.on_rank_zero(self.steps):
            save()
            self.finish(may_fail=True)

    def _publish(self, path: Path, checksums: dict[str, Any]) -> None:
        """Makes a checkpoint count that all ranks have written.

        Raises:
            OSError: what another rank has written is not there to see.
        """
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
            if (self.folder / name).is_file():
                # A resumed run relies on the lines before its checkpoint.
                sync(self.folder / name)
        remove(path)
        durable_rename(temporary, path)
        for step in self.steps()[: -self.keep]:
            # Renamed first: one that is half deleted must not look whole.
            old = checkpoint_path(self.folder, step)
            remove(unfinished_path(old))
            old.rename(unfinished_path(old))
            remove(unfinished_path(old))

    def _fail(
        self, path: Path, error: OSError, num_bytes: int, may_fail: bool
    ) -> None:
        """Says that a checkpoint could not be saved; too many of them end training."""

        def clear() -> int:
            shutil.rmtree(unfinished_path(path), ignore_errors=True)
            return shutil.disk_usage(self.folder).free

        self.num_failed = self.num_failed + 1
        free = dist.on_rank_zero(clear)
        line = (
            f"{path} could not be saved ({error.strerror or error}): it needs"
            f" {num_bytes:,} bytes, {free:,} are free"
        )
        if not may_fail and self.num_failed >= MAX_FAILED_SAVES:
            steps = dist.on_rank_zero(self.steps)
            newest = f"step {steps[-1]}" if steps else "the start"
            raise SaveFailed(
                f"{line}. No checkpoint could be saved {self.num_failed} times in a"
                " row, so training stops; make room, and resume it with --resume from"
                f" {newest}"
            )
        goes_on = (
            "this is the last one of this attempt"
            if may_fail
            else "training goes on, tries again at the next checkpoint, and stops after"
            f" {MAX_FAILED_SAVES} failures in a row (this is number {self.num_failed})"
        )
        dist.say(f"{line}. Older checkpoints are intact; {goes_on}")

    def newest_whole(self) -> int | None:
        """The step of the newest checkpoint that is whole, or None if there are no
        checkpoints. Damaged ones after it are set aside; every rank must call this.

        Each file is read once more, by one rank: 1 GB takes some 0.1 s of a core.

        Raises:
            ConfigError: there are checkpoints, but none is whole.
        """
        damages: dict[Path, str] = {}
        for step in reversed(dist.on_rank_zero(self._clean_steps)):
            path = checkpoint_path(self.folder, step)
            damage = _checkpoint_damage(path)
            if not damage:
                dist.on_rank_zero(lambda: _set_aside(damages, step))  # noqa: B023
                return step
            damages[path] = damage
        if damages:
            listed = "; ".join(f"{p}: {why}" for p, why in damages.items())
            raise ConfigError(
                f"{self.folder} has no checkpoint that is whole ({listed}): take one"
                " from a copy of the run, or train again in another folder"
            )
        return None

    def _clean_steps(self) -> list[int]:
        """`steps`, after what killed processes left behind has been deleted."""
        for path in (self.folder / CHECKPOINTS).glob("*.unfinished"):
            remove(path)
        return self.steps()

    def load(
        self, step: int, model: Model, optimizer: Optimizer
    ) -> dict[str, Any]:
        """Restores model and optimizer in place, on any number of ranks; returns the
        progress. The optimizer keeps the options and groups that it was built with."""
        state = _state(model, optimizer)
        options = state["optimizer"].pop("param_groups")
        path = checkpoint_path(self.folder, step)
        load_state(state, path, fused_widths(model))
        state["optimizer"]["param_groups"] = options
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(
            model, optimizer.optimizers, state["optimizer"]
        )
        return read_object(
            path / PROGRESS,
            "delete this checkpoint to resume from the one before",
        )


def _new_stager() -> DefaultStager:
    """Makes the copy that is written while training goes on: pinned for CUDA, and in
    the same memory each time."""
    cuda = torch.cuda.is_available()
    return DefaultStager(
        StagingOptions(
            use_pinned_memory=cuda,
            use_shared_memory=False,
            use_async_staging=False,
            use_non_blocking_copy=cuda,
        )
    )


def _is_closed(stager: DefaultStager) -> bool:
    """torch 2.11 closes a stager after each copy; one that is used again fails."""
    return not stager._state_dict_stager._deepcopy_dispatch


def _failure(future: Future) -> OSError | None:
    """Why a checkpoint could not be written, the same on all ranks.

    Raises:
        CheckpointException: the reason is no file system's.
    """
    try:
        future.result()
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if not isinstance(cause, OSError):
                raise
        return causes[0]  # type: ignore[return-value]
    return None


def _checkpoint_damage(path: Path) -> str:
    """What is wrong with a checkpoint, empty if nothing is. A collective: each rank
    reads a share of the files."""

    def read() -> dict[str, Any] | str:
        try:
            return noted_checksums(path) or f"it has no {CHECKSUMS}"
        except ConfigError:
            return f"{CHECKSUMS} is damaged"

    noted = dist.on_rank_zero(read)
    if isinstance(noted, str):
        return noted
    own = sorted(noted)[dist.rank() :: dist.world_size()]
    damages = [find_damage(path / name, noted) for name in own]
    found = ", ".join(
        damage
        for each in dist.all_gather_objects(damages)
        for damage in each
        if damage
    )
    return found or dist.on_rank_zero(lambda: _unnoted(path, noted))


def _unnoted(path: Path, noted: Mapping[str, Any]) -> str:
    """A file that the list of shards names, and that has no checksum, in words; empty
    if there is none."""
    try:
        entries = read_metadata(path).storage_data or {}
    except ConfigError:
        return ""  # is said when the checkpoint is loaded
    names = {entry.relative_path for entry in entries.values()}
    missing = sorted(names - noted.keys())
    return f"{missing[0]} is not in {CHECKSUMS}" if missing else ""


def _set_aside(damages: dict[Path, str], step: int) -> None:
    for path, damage in damages.items():
        aside = path.with_name(f"{path.name}.damaged")
        remove(aside)
        path.rename(aside)
        dist.say(
            f"{path} is damaged: {damage}. It is set aside as {aside.name}, and the run"
            f" resumes from step {step} in its place"
        )


def _state(model: Model, optimizer: Optimizer) -> dict[str, Any]:
    options = StateDictOptions(ignore_frozen_params=False)
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(
            model, optimizer.optimizers, options=options
        ),
    }
