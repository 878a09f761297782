"""Checkpoints: model, optimiser and progress in one folder, written aside and renamed
when whole.

`torch.distributed.checkpoint` writes each rank's shards while training goes on, and
loads them on another number of ranks. Nothing is pickled by us, and nothing is
unpickled without `weights_only`.

    checkpoints/step-00000200/   .metadata  __0_0.distcp ...  progress.json
"""

import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch.distributed
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from mm1 import dist
from mm1.files import read_object, write_json
from mm1.nn.model import Model
from mm1.train.optimizers import Optimizer

UNFINISHED = ".unfinished"


def whole_steps(folder: Path) -> list[int]:
    """Steps with a whole checkpoint in a folder of checkpoints, in order."""
    found = folder.glob("step-*")
    return sorted(
        int(p.name.removeprefix("step-"))
        for p in found
        if not p.name.endswith(UNFINISHED)
    )


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        # Writing goes on in a thread beside training: its exchanges must not meet those
        # of the training.
        self.group: Any = torch.distributed.new_group(backend="gloo")
        self.pending: tuple[Future, Path] | None = None

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, in order."""
        return whole_steps(self.folder)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def save(
        self, step: int, model: Model, optimizer: Optimizer, progress: dict[str, Any]
    ) -> None:
        """Starts writing; the checkpoint counts once `settle` or `finish` has found it
        whole."""
        self.finish()
        aside = self.folder / (self.path(step).name + UNFINISHED)
        if dist.rank() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            write_json(aside / "progress.json", progress)
        dist.barrier()  # no rank writes before the folder is there
        future = dcp.async_save(
            _state(model, optimizer), checkpoint_id=aside, process_group=self.group
        )
        self.pending = (future, aside)  # type: ignore[assignment]

    def settle(self) -> None:
        """Makes the checkpoint count if all ranks have written it, without waiting.
        Every rank must call it."""
        if self.pending is not None and dist.all_true(self.pending[0].done()):
            self.finish()

    def finish(self) -> None:
        """Waits for the checkpoint being written, renames it and removes the oldest
        beyond `keep`."""
        if self.pending is None:
            return
        future, aside = self.pending
        future.result()
        self.pending = None
        dist.barrier()
        if dist.rank() == 0:
            whole = aside.with_name(aside.name.removesuffix(UNFINISHED))
            shutil.rmtree(whole, ignore_errors=True)
            aside.rename(whole)
            for step in self.steps()[: -self.keep]:
                shutil.rmtree(self.path(step))
        dist.barrier()

    def load(self, step: int, model: Model, optimizer: Optimizer) -> dict[str, Any]:
        """Restores model and optimiser in place and returns the progress; any number of
        ranks may do it."""
        state = _state(model, optimizer)
        dcp.load(state, checkpoint_id=self.path(step))
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(model, optimizer.optimizers, state["optimizer"])
        return read_object(
            self.path(step) / "progress.json",
            "delete this checkpoint, to go on from the one before",
        )


def _state(model: Model, optimizer: Optimizer) -> dict[str, Any]:
    options = StateDictOptions(ignore_frozen_params=False)
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(
            model, optimizer.optimizers, options=options
        ),
    }
