"""Checkpoints: model, optimizer and progress in one folder, written aside and renamed
when complete.

`torch.distributed.checkpoint` writes each rank's shards while training continues, and
loads them on any number of ranks. It pickles the list of shards, `.metadata`, and
whatever is no tensor; `mm1.train.checkpoint_reader` reads both so that nothing in a
stranger's checkpoint runs.

    checkpoints/step-00000200/   .metadata  __0_0.distcp ...  progress.json
"""

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
from mm1.files import read_object, remove, unfinished_path, write_json
from mm1.nn.model import Model
from mm1.runs.layout import checkpoint_path, checkpoint_steps
from mm1.train.checkpoint_reader import load_state
from mm1.train.optimizers import Optimizer

PROGRESS = "progress.json"
"""The step, the loader's state, and sums since the last line of metrics."""


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self.keep = keep
        # Checkpoints are written in a thread, whose collectives must not mix with those
        # of training.
        self.group: Any = torch.distributed.new_group(backend="gloo")
        self.pending: tuple[Future, Path] | None = None

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
        it is complete."""
        self.finish()
        path = checkpoint_path(self.folder, step)
        temporary = unfinished_path(path)
        if dist.rank() == 0:
            remove(temporary)
            temporary.mkdir(parents=True)
            write_json(temporary / PROGRESS, progress)
        dist.barrier()  # no rank writes before the folder exists
        future = dcp.async_save(
            _state(model, optimizer),
            checkpoint_id=temporary,
            process_group=self.group,
        )
        self.pending = (future, path)  # type: ignore[assignment]

    def settle(self) -> None:
        """Makes the checkpoint count if all ranks have written it, without waiting;
        every rank must call this."""
        if self.pending is not None and dist.all_true(self.pending[0].done()):
            self.finish()

    def finish(self) -> None:
        """Waits for the checkpoint being written, renames it and deletes the oldest
        beyond `keep`."""
        if self.pending is None:
            return
        future, path = self.pending
        future.result()
        self.pending = None
        dist.barrier()
        if dist.rank() == 0:
            remove(path)
            unfinished_path(path).rename(path)
            for step in self.steps()[: -self.keep]:
                remove(checkpoint_path(self.folder, step))
        dist.barrier()

    def load(
        self, step: int, model: Model, optimizer: Optimizer
    ) -> dict[str, Any]:
        """Restores model and optimizer in place, on any number of ranks; returns the
        progress."""
        state = _state(model, optimizer)
        path = checkpoint_path(self.folder, step)
        load_state(state, path)
        set_model_state_dict(model, state["model"])
        set_optimizer_state_dict(
            model, optimizer.optimizers, state["optimizer"]
        )
        return read_object(
            path / PROGRESS,
            "delete this checkpoint to resume from the one before",
        )


def _state(model: Model, optimizer: Optimizer) -> dict[str, Any]:
    options = StateDictOptions(ignore_frozen_params=False)
    return {
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(
            model, optimizer.optimizers, options=options
        ),
    }
