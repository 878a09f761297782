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

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import timedelta
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
from mm1.checksums import CHECKSUMS
from mm1.config import ConfigError, UserError
from mm1.nn.model import Model
from mm1.nn.shards import fused_widths
from mm1.train.checkpoint_files import CheckpointFiles
from mm1.train.checkpoint_planners import RegionSavePlanner
from mm1.train.checkpoint_reader import load_state
from mm1.train.checkpoint_writer import CheckpointWriter
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
    """The checkpoints of one run."""

    def __init__(self, files: CheckpointFiles, *, keep: int) -> None:
        self.files = files
        self.keep = keep
        # Checkpoints are written in a thread, whose collectives must not mix with those
        # of training.
        self.group: Any = None
        self.pending: tuple[Future, CheckpointWriter, int] | None = None
        self.stager = _new_stager()
        self.num_failed = 0
        """Saves that failed in a row."""

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, in order."""
        return self.files.steps()

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
        dist.on_rank_zero(lambda: self.files.clear(step))
        writer = self.files.writer(step, progress)
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
        self.pending = (future, writer, step)

    def settle(self) -> None:
        """Makes the checkpoint count if all ranks have written it, without waiting;
        every rank must call this."""
        if self.pending is not None and dist.all_true(self.pending[0].done()):
            self.finish()

    def finish(self, *, may_fail: bool = False) -> None:
        """Waits for the checkpoint being written, makes it count and deletes the oldest
        beyond `keep`. One that could not be written leaves the others as they are.

        Raises:
            SaveFailed: `MAX_FAILED_SAVES` could not be written in a row, unless it
                `may_fail`, as training ends anyway.
        """
        if self.pending is None:
            return
        future, writer, step = self.pending
        self.pending = None
        ranks = dist.all_gather_objects(
            (_failure(future), writer.checksums, writer.num_bytes)
        )
        checksums = {k: v for _, each, _ in ranks for k, v in each.items()}
        try:
            for failure, _, _ in ranks:
                if failure is not None:
                    raise failure
            dist.on_rank_zero(lambda: self._publish(step, checksums))
            self.num_failed = 0
        except OSError as error:
            self._fail(step, error, sum(each[2] for each in ranks), may_fail)

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

    def _publish(self, step: int, checksums: Mapping[str, Any]) -> None:
        self.files.publish(step, checksums)
        for old in self.steps()[: -self.keep]:
            self.files.drop(old)

    def _fail(
        self, step: int, error: OSError, num_bytes: int, may_fail: bool
    ) -> None:
        """Says that a checkpoint could not be saved; too many of them end training."""
        self.num_failed = self.num_failed + 1
        room = dist.on_rank_zero(lambda: self.files.abandon(step))
        line = (
            f"{self.files.path(step)} could not be saved ({error.strerror or error}):"
            f" it needs {num_bytes:,} bytes{room}"
        )
        if not may_fail and self.num_failed >= MAX_FAILED_SAVES:
            steps = dist.on_rank_zero(self.steps)
            newest = f"step {steps[-1]}" if steps else "the start"
            raise SaveFailed(
                f"{line}. No checkpoint could be saved {self.num_failed} times in a"
                f" row, so training stops; {self.files.MAKE_ROOM}, and resume it with"
                f" --resume from {newest}"
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
        damages: dict[int, str] = {}
        for step in reversed(dist.on_rank_zero(self._clean_steps)):
            damage = self._damage(step)
            if not damage:
                dist.on_rank_zero(lambda: self._set_aside(damages, step))  # noqa: B023
                return step
            damages[step] = damage
        if damages:
            listed = "; ".join(
                f"{self.files.path(n)}: {why}" for n, why in damages.items()
            )
            raise ConfigError(
                f"{self.files.name} has no checkpoint that is whole ({listed}): take"
                " one from a copy of the run, or train again in another folder"
            )
        return None

    def _clean_steps(self) -> list[int]:
        """`steps`, after what killed processes left behind has been deleted."""
        self.files.clean()
        return self.steps()

    def _damage(self, step: int) -> str:
        """What is wrong with a checkpoint, empty if nothing is. A collective: each rank
        reads a share of the files."""

        def read() -> dict[str, Any] | str:
            try:
                noted = self.files.noted(step)
            except ConfigError:
                return f"{CHECKSUMS} is damaged"
            return dict(noted) or f"it has no {CHECKSUMS}"

        noted = dist.on_rank_zero(read)
        if isinstance(noted, str):
            return noted
        own = sorted(noted)[dist.rank() :: dist.world_size()]
        damages = [self.files.damage(step, name, noted) for name in own]
        found = ", ".join(
            damage
            for each in dist.all_gather_objects(damages)
            for damage in each
            if damage
        )
        return found or dist.on_rank_zero(
            lambda: self.files.unnoted(step, noted)
        )

    def _set_aside(self, damages: Mapping[int, str], step: int) -> None:
        for damaged, damage in damages.items():
            path = self.files.path(damaged)
            aside = self.files.set_aside(damaged)
            dist.say(
                f"{path} is damaged: {damage}. It is set aside as {aside}, and the run"
                f" resumes from step {step} in its place"
            )

    def load(
        self, step: int, model: Model, optimizer: Optimizer
    ) -> dict[str, Any]:
        """Restores model and optimizer in place, on any number of ranks; returns the
        progress. The optimizer keeps the options and groups that it was built with."""
        state = _state(model, optimizer)
        options = state["optimizer"].pop("param_groups")
        load_state(state, self.files.reader(step), fused_widths(model))
        state["optimizer"]["param_groups"] = options
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(
            model, optimizer.optimizers, state["optimizer"]
        )
        return self.files.progress(step)


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


def _state(model: Model, optimizer: Optimizer) -> dict[str, Any]:
    options = StateDictOptions(ignore_frozen_params=False)
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(
            model, optimizer.optimizers, options=options
        ),
    }
