"""Before several ranks start: do they see the same run folder, and have they the same
config and the same data?

Where they do not, a run would end well to all appearances, with the shards of its
checkpoints spread over machines, or train each rank on something else. Only content
counts: copies of the data on the machines' own disks are fine.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm1 import config as configs
from mm1 import dist
from mm1.config import ConfigError, UserError
from mm1.data.prepared.shards import read_manifest
from mm1.files import remove
from mm1.peers import host_name, listed
from mm1.storage.remote_path import as_path

SHARED_SECONDS = 10.0
"""For a file that one machine has written to be seen on another."""
POLL_SECONDS = 0.1
MOST_KEYS = 3
"""Of a config that differ, in one message."""


class RanksDisagree(UserError):
    """Ranks would not train the same run."""


@dataclass(frozen=True)
class View:
    """What one rank sees."""

    host: str
    sees_folder: bool
    config: tuple[str, ...]
    """Keys and values that are not those of rank 0."""
    data: Mapping[str, str]
    """Folder -> hash of its content, or why it cannot be read."""


def check_ranks_agree(folder: Path, config: Any) -> None:
    """A collective: all ranks must call it. Nothing is done for a single one.

    Raises:
        RanksDisagree: the same on all ranks, with the names of those that differ.
        OSError: rank 0 cannot write to the folder.
    """
    if dist.world_size() == 1:
        return
    nonce = folder / dist.on_rank_zero(lambda: _write_nonce(folder))
    shared, first = dist.from_first_rank((folder.absolute(), config))
    views = dist.all_gather_objects(
        View(
            host_name(),
            seen_in_time(nonce.is_file),
            tuple(
                f"{key}={own}"
                for key, (_, own) in configs.differences(first, config).items()
            ),
            {each: _content(as_path(each)) for each in config.loader.folders()},
        )
    )
    dist.on_rank_zero(lambda: remove(nonce))
    _check_folder(shared, views)
    _check_config(views)
    _check_data(views)


def seen_in_time(is_there: Callable[[], bool]) -> bool:
    """Asks until it is so, for up to `SHARED_SECONDS`: network file systems remember
    for a while what was not there."""
    end = time.monotonic() + SHARED_SECONDS
    while not is_there():
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _write_nonce(folder: Path) -> str:
    for old in folder.glob("nonce-*"):
        remove(old)
    name = f"nonce-{uuid.uuid4().hex}"  # of a new name nothing is remembered
    (folder / name).touch()
    return name


def _content(folder: Path) -> str:
    """The hash of a prepared folder's content. Its manifest also says where and when
    that was prepared, which does not matter."""
    try:
        manifest = read_manifest(folder)
    except (OSError, ConfigError) as error:
        return f"not readable: {error}"
    content = [manifest.get(key) for key in ("format", "tokenizer", "splits")]
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_folder(folder: Path, views: Sequence[View]) -> None:
    blind = _ranks(views, lambda view: not view.sees_folder)
    if blind:
        raise RanksDisagree(
            f"{folder} is not shared: {blind} cannot see there what rank 0"
            f" on {views[0].host} has written, within {SHARED_SECONDS:g} s. Choose a"
            " folder on a file system that all machines mount under the same path"
        )


def _check_config(views: Sequence[View]) -> None:
    others = _ranks(views, lambda view: bool(view.config))
    if others:
        keys = next(view.config for view in views if view.config)
        raise RanksDisagree(
            f"{others} would train another config than rank 0 on {views[0].host}:"
            f" {', '.join(keys[:MOST_KEYS])}. Start all ranks with the same command,"
            " recipe and version of mm1"
        )


def _check_data(views: Sequence[View]) -> None:
    for folder, content in views[0].data.items():
        others = _ranks(views, lambda view: view.data[folder] != content)  # noqa: B023
        if others:
            raise RanksDisagree(
                f"{folder} is not the same data on {others} as on rank 0 on"
                f" {views[0].host}: copy the whole folder from one to the other"
            )


def _ranks(views: Sequence[View], chosen: Callable[[View], bool]) -> str:
    """Their numbers and hosts; empty if there are none."""
    found = [
        f"{rank} on {view.host}"
        for rank, view in enumerate(views)
        if chosen(view)
    ]
    return listed(found) if found else ""
