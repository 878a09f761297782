"""Writing a run's weights, by all ranks together: no rank ever holds all of them.

Tensors are gathered one after the other, and each file is written by one rank, many
files at a time. Which files there are and what is in them follows from names, types and
shapes alone, whatever the number of ranks and however tensors are sharded.

Files are written aside. A run has weights once `model.safetensors`, or the index of its
shards, has its name, which is the last thing to happen; checksums are noted before.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.distributed.tensor import DTensor

from mm1 import dist
from mm1.checksums import (
    Checksum,
    checked_path,
    checksum,
    forget_checksums,
    note_replacement,
)
from mm1.config import UserError
from mm1.files import durable_rename, remove, sync, unfinished_path, write_json
from mm1.progress import ProgressBar
from mm1.runs.remote_weights import put_weights
from mm1.runs.weights import joint_fingerprint
from mm1.runs.working_folder import working_folder
from mm1.slow_work import Tick, slow_work, slow_work_on_rank_zero
from mm1.storage.remote_path import RemotePath
from mm1.weight_files import (
    INDEX,
    MAX_SHARD_BYTES,
    SHARDS,
    WEIGHTS,
    Layout,
    SafetensorsWriter,
    in_file_order,
    plan_shards,
    shard_index,
)

BATCH_BYTES = 1 << 26
"""Of small tensors that are gathered before they are written."""


class LazyTensor(NamedTuple):
    """A tensor that is made, on one rank, when it is written."""

    layout: Layout
    parts: Sequence[Tensor]
    """What it is made from, maybe sharded."""
    join: Callable[..., Tensor] = lambda tensor: tensor
    """Makes it from its whole parts on the CPU."""

    @classmethod
    def of(cls, tensor: Tensor) -> "LazyTensor":
        return cls(Layout.of(tensor), (tensor,))

    def gather(self, rank: int) -> Tensor | None:
        """The tensor on this `rank`, None on the others. A collective."""
        whole = [
            part.full_tensor() if isinstance(part, DTensor) else part
            for part in self.parts
        ]
        if dist.rank() != rank:
            return None
        return self.join(*(part.detach().cpu() for part in whole))


class _File(NamedTuple):
    path: Path
    """Where it is written, aside."""
    layouts: Mapping[str, Layout]
    rank: int
    """Which writes it."""

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".unfinished")


def write_weights(
    folder: Path,
    state: Mapping[str, Tensor | LazyTensor],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> str:
    """Writes tensors, sharded or not, and returns their fingerprint; tied ones are
    written once, under their first name. All ranks must call this.

    Beyond its own shards, each rank's memory holds the largest tensor, or
    `BATCH_BYTES` of small ones, as it is gathered (with gloo twice), and once more
    where one is written.

    Raises:
        UserError: the disk is full, or cannot be written.
    """
    lazy = {
        name: t if isinstance(t, LazyTensor) else LazyTensor.of(t)
        for name, t in state.items()
    }
    names = dist.from_first_rank(_untied(lazy))
    shards = plan_shards(
        {name: lazy[name].layout for name in names}, max_shard_bytes
    )
    num_bytes = sum(lazy[name].layout.num_bytes for name in names)
    working = working_folder(folder)
    try:
        dist.on_rank_zero(lambda: _clear(working))
        sums: dict[str, Checksum] = {}
        with ProgressBar("weights", num_bytes, in_bytes=True) as bar:
            for files in _waves(working, shards):
                sums |= _write_files(files, lazy, bar)
        if isinstance(folder, RemotePath):
            put_weights(folder, working, shards, sums)
        else:
            slow_work_on_rank_zero(
                lambda tick: _publish(folder, shards, sums, tick)
            )
    except OSError as error:
        free = dist.on_rank_zero(lambda: _clear(working))
        path = working / (WEIGHTS if WEIGHTS in shards else SHARDS)
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): it needs"
            f" {num_bytes:,} bytes, {free:,} are free; make room, and resume the run"
            " with --resume"
        ) from error
    return joint_fingerprint([sums[name]["xxh3_128"] for name in shards])


def _untied(state: Mapping[str, LazyTensor]) -> list[str]:
    """Names of tensors that share no memory with one before."""
    seen: dict[tuple[int, Layout], str] = {}
    names = []
    for name, (layout, parts, _) in state.items():
        first = parts[0]
        own = first.to_local() if isinstance(first, DTensor) else first
        if (
            len(parts) > 1
            or not own.numel()
            or seen.setdefault((own.data_ptr(), layout), name) == name
        ):
            names.append(name)
    return names


def _clear(folder: Path) -> int:
    """Deletes what an earlier attempt left unfinished; returns how many bytes are
    free."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, SHARDS, INDEX):
        for path in folder.glob(unfinished_path(Path(name)).name):
            remove(path)
    return shutil.disk_usage(folder).free


def _waves(
    folder: Path, shards: Mapping[str, Mapping[str, Layout]]
) -> Iterator[list[_File]]:
    """Files that are written at the same time: as many as there are ranks, which lie
    far apart where they are few, to use the network of all hosts."""
    size = dist.world_size()
    stride = max(1, size // len(shards))
    items = list(shards.items())
    for start in range(0, len(items), size):
        yield [
            _File(unfinished_path(folder / name), layouts, i * stride)
            for i, (name, layouts) in enumerate(items[start : start + size])
        ]


def _batches(layouts: Mapping[str, Layout]) -> Iterator[list[str]]:
    """Names in the order of the file; each batch is one tensor, or several small
    ones."""
    batch: list[str] = []
    num_bytes = 0
    for name in in_file_order(layouts):
        if batch and num_bytes + layouts[name].num_bytes > BATCH_BYTES:
            yield batch
            batch = []
            num_bytes = 0
        batch.append(name)
        num_bytes += layouts[name].num_bytes
    yield batch


def _write_files(
    files: Sequence[_File], state: Mapping[str, LazyTensor], bar: ProgressBar
) -> dict[str, Checksum]:
    """Each file on its own rank; returns the checksums of all by name."""
    own = _FileWriter(
        next((file for file in files if file.rank == dist.rank()), None)
    )
    plans = [(file.rank, list(_batches(file.layouts))) for file in files]
    try:
        for number in range(max(len(batches) for _, batches in plans)):
            held: dict[str, Tensor] = {}
            for rank, batches in plans:
                names = batches[number] if number < len(batches) else []
                held |= _gather(names, state, rank)
                bar.advance(sum(state[n].layout.num_bytes for n in names))
            slow_work(partial(own.put, held))
        sums = slow_work(own.finish)
    except BaseException:
        own.abandon()
        raise
    return {k: v for e in dist.all_gather_objects(sums) for k, v in e.items()}


def _gather(
    names: Sequence[str], state: Mapping[str, LazyTensor], rank: int
) -> dict[str, Tensor]:
    """The tensors on this `rank`, nothing on the others."""
    whole = ((name, state[name].gather(rank)) for name in names)
    return {name: tensor for name, tensor in whole if tensor is not None}


class _FileWriter:
    """This rank's file of those that are written at the same time, if it has one."""

    def __init__(self, file: _File | None) -> None:
        self.file = file
        self.writer: SafetensorsWriter | None = None

    def put(self, tensors: Mapping[str, Tensor], tick: Tick) -> None:
        if self.file is not None and self.writer is None:
            self.writer = SafetensorsWriter(self.file.path, self.file.layouts)
        for name, tensor in tensors.items():
            assert self.writer is not None
            self.writer.put(name, tensor, tick)

    def finish(self, tick: Tick) -> dict[str, Checksum]:
        if self.file is None or self.writer is None:
            return {}
        self.writer.finish()
        sync(self.file.path)
        return {self.file.name: checksum(self.file.path, tick)}

    def abandon(self) -> None:
        if self.file is not None and self.writer is not None:
            self.writer.file.close()
            remove(self.file.path)


def _publish(
    folder: Path,
    shards: Mapping[str, Mapping[str, Layout]],
    sums: Mapping[str, Checksum],
    tick: Tick,
) -> None:
    """Makes files count that are on the disk."""
    if WEIGHTS in shards:
        names = {WEIGHTS}
    else:
        names = {*shards, INDEX}
        # Old shards must not be found among new ones.
        remove(folder / WEIGHTS)
        remove(folder / INDEX)
        sync(folder)
    for name in shards:
        note_replacement(folder / name, sums[name], tick)
        durable_rename(unfinished_path(folder / name), folder / name)
    if INDEX in names:
        with checked_path(folder / INDEX) as path:
            write_json(path, shard_index(shards))
    for path in (folder / WEIGHTS, folder / INDEX, *folder.glob(SHARDS)):
        if path.name not in names:
            remove(path)
    forget_checksums(folder)
