"""Weights of a run at an object store: each file is put by the rank that has written it
in its working folder. No machine needs to see another one's files.

As in a run folder, a run has weights once `model.safetensors`, or the index of its
shards, is there, which is put last; checksums are noted before.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from mm1 import dist
from mm1.checksums import (
    CHECKSUMS,
    Checksum,
    checked_path,
    forget_checksums,
    noted_checksums,
)
from mm1.files import remove, unfinished_path, write_json
from mm1.slow_work import Tick, slow_work, ticking
from mm1.storage.cache import CachedObject
from mm1.storage.remote_file import put_file
from mm1.storage.remote_path import RemotePath
from mm1.storage.requests import StorageError
from mm1.weight_files import INDEX, SHARDS, WEIGHTS, Layout, shard_index


class _CachedWeights(CachedObject):
    """A file of weights, known by the hash in `checksums.json`."""

    def new_hasher(self) -> Any:
        return xxhash.xxh3_128()


def local_weights(path: Path, tick: Tick) -> Path:
    """A file of weights, or its copy in the cache if it is at an object store.

    Raises:
        StorageError: it is not what `checksums.json` says, or that says nothing.
    """
    if not isinstance(path, RemotePath):
        return path
    noted = noted_checksums(path.parent).get(path.name)
    if not noted:
        raise StorageError(
            f"{path} cannot be read from there, as {CHECKSUMS} does not name it: copy"
            " the folder to this machine"
        )
    newest = noted[-1]
    with ticking(tick):
        return _CachedWeights(
            str(path), newest["bytes"], newest["xxh3_128"]
        ).fetch()


def put_weights(
    run: RemotePath,
    folder: Path,
    shards: Mapping[str, Mapping[str, Layout]],
    sums: Mapping[str, Checksum],
) -> None:
    """Puts the files that this rank has written aside in `folder`, and has them count.
    All ranks must call this.

    Raises:
        StorageError: the store does not answer, or refuses; the same on all ranks.
    """

    def note() -> None:
        # Old shards must not be found among new ones.
        remove(run / WEIGHTS)
        remove(run / INDEX)
        write_json(
            run / CHECKSUMS,
            noted_checksums(run) | {name: [sums[name]] for name in shards},
        )

    def put(tick: Tick) -> None:
        for name in shards:
            path = unfinished_path(folder / name)
            if path.is_file():
                with ticking(tick):
                    put_file(path, str(run / name))
                remove(path)

    dist.on_rank_zero(note)
    slow_work(put)
    dist.on_rank_zero(lambda: _finish(run, shards))


def _finish(run: Path, shards: Mapping[str, Mapping[str, Layout]]) -> None:
    if WEIGHTS not in shards:
        with checked_path(run / INDEX) as path:
            write_json(path, shard_index(shards))
    for path in run.glob(SHARDS):
        if path.name not in shards:
            remove(path)
    forget_checksums(run)
