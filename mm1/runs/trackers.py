"""Where metrics go besides metrics.jsonl: TensorBoard, Weights & Biases, trackio.

trackers.json   the id under which a run goes on in a tracker when it is resumed

An id is drawn when a run starts: another run in a folder of the same name is another
run to the tracker, too. `WANDB_PROJECT`, `WANDB_MODE`, `TRACKIO_DIR` and the like say
where things go, as elsewhere; without them trackio writes to this machine alone.
"""

import importlib.util
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mm1 import config as configs
from mm1.config import ConfigError
from mm1.extras import installs, needs_extra
from mm1.files import read_object, write_json
from mm1.runs.working_folder import working_folder
from mm1.storage.remote_path import RemotePath

TrackerName = Literal["tensorboard", "wandb", "trackio"]
Tracker = Callable[[int, Mapping[str, float]], object]
"""Takes a step and its metrics."""

PROJECT = "mm1"
IDS = "trackers.json"


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Raises ConfigError for a tracker that is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"trackers={tuple(names)} needs {name}: {installs('logging')}"
            )


def open_trackers(
    names: Sequence[TrackerName], run: Path, config: Any, resume_step: int
) -> list[Tracker]:
    """The trackers of a run that stands at `resume_step`; later steps will come
    again."""
    trackers: list[Tracker] = []
    if "tensorboard" in names:
        trackers.append(_tensorboard(run, resume_step))
    if "wandb" in names:
        trackers.append(_wandb(run, config))
    if "trackio" in names:
        trackers.append(_trackio(run, config))
    return trackers


def _tensorboard(run: Path, resume_step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(
        str(working_folder(run) / "tensorboard"), purge_step=resume_step + 1
    )

    def track(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        if isinstance(run, RemotePath):
            writer.flush()  # its files are put with the next checkpoint

    return track


def _wandb(run: Path, config: Any) -> Tracker:
    with needs_extra("logging", "wandb"):
        import wandb  # type: ignore[import-not-found]

    # Steps that come again are equal to those it has, which it keeps.
    tracked = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.name,
        id=_id_of(run, "wandb"),
        config=configs.to_json(config),
        dir=str(working_folder(run)),
        resume="allow",
        reinit="create_new",
    )
    return lambda step, values: tracked.log(dict(values), step=step)


def _trackio(run: Path, config: Any) -> Tracker:
    with needs_extra("logging", "trackio"):
        import trackio  # type: ignore[import-not-found]

    # a run is resumed by its name
    tracked = trackio.init(
        project=os.environ.get("TRACKIO_PROJECT", PROJECT),
        name=f"{run.name}-{_id_of(run, 'trackio')}",
        config=configs.to_json(config),
        resume="allow",
    )
    return lambda step, values: tracked.log(dict(values), step=step)


def _id_of(run: Path, tracker: str) -> str:
    """This run's id in a tracker, drawn when it is first asked for."""
    path = run / IDS
    ids = read_object(path, "delete it") if path.is_file() else {}
    if tracker not in ids:
        ids[tracker] = uuid.uuid4().hex[:8]
        write_json(path, ids)
    return ids[tracker]
