"""Reads a checkpoint of `torch.distributed.checkpoint` that may come from a stranger.

torch unpickles `.metadata` with plain `pickle`, and values that are no tensors with
`torch.load(weights_only=False)`: either runs whatever its author wants. Here
`.metadata` is unpickled into stand-ins, which can do nothing, and torch's own classes
are built from them once names, types and ranges have been checked. Values are read with
`weights_only=True`, as torch reads tensors.
"""

import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
)
from torch.futures import Future

from mm1.config import ConfigError
from mm1.files import path_within
from mm1.nn.shards import FusedWidths
from mm1.train.checkpoint_planners import RegionLoadPlanner

METADATA = ".metadata"
CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
}
"""What `.metadata` is made of; each becomes a `_StandIn`."""
IGNORED = {
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
}
"""What is called in it whose result nothing needs."""
REMEDY = "delete this checkpoint to resume from the one before"


def load_state(
    state: dict[str, Any], reader: "CheckpointReader", widths: FusedWidths
) -> None:
    """Loads a checkpoint into a nested dict of tensors and numbers, in place and on any
    number of ranks, and runs no code of whoever wrote it. `widths` are those of the
    model's fused linear maps.

    Raises:
        ConfigError: the checkpoint is damaged, of another model, or holds anything that
            a checkpoint of ours does not.
    """
    try:
        dcp.load(
            state, storage_reader=reader, planner=CheckpointPlanner(widths)
        )
    except CheckpointException as error:
        first, _ = next(iter(error.failures.values()))
        said = (str(first).strip() or type(first).__name__).splitlines()[0]
        raise ConfigError(
            f"{reader.origin} cannot be read ({said}): {REMEDY}"
        ) from error


class CheckpointReader(FileSystemReader):
    """torch's reader, given metadata that has been checked."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if `.metadata` is missing or is not what torch writes."""
        super().__init__(folder)
        self.origin = folder
        self.metadata = read_metadata(folder)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self.metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """In the order of the files, which are read from start to end."""

        def place(item: ReadItem) -> tuple[str, int]:
            info = self.storage_data[item.storage_index]
            return info.relative_path, info.offset

        items = sorted(plan.items, key=place)
        return super().read_data(replace(plan, items=items), planner)


class CheckpointPlanner(RegionLoadPlanner):
    """The planner of our checkpoints, but for values that are no tensors."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Raises ValueError if it is not of the kind of the value it replaces."""
        loaded = torch.load(value, weights_only=True)
        name = read_item.dest_index.fqn
        old = self.state_dict[name]
        numbers = isinstance(loaded, (int, float)) and isinstance(
            old, (int, float)
        )
        if isinstance(old, torch.Tensor) or not (
            numbers or None in (loaded, old) or type(loaded) is type(old)
        ):
            raise ValueError(
                f"{name} is of the type {type(loaded).__name__}, not"
                f" {type(old).__name__}"
            )
        # The parent loads without `weights_only`, so it gets our own bytes.
        clean = io.BytesIO()
        torch.save(loaded, clean)
        clean.seek(0)
        super().load_bytes(read_item, clean)


def read_metadata(folder: Path) -> Metadata:
    """The checked content of `.metadata`.

    Raises:
        ConfigError: it is missing, it is not what torch writes, or a file that it names
            is missing, too short, or outside the folder.
    """
    path = folder / METADATA
    if not path.is_file():
        raise ConfigError(f"{folder} has no {METADATA}: {REMEDY}")
    content = path.read_bytes()
    # Anything can be raised by a pickle that nobody would write.
    try:
        return _metadata(_Unpickler(io.BytesIO(content)).load(), folder)
    except ConfigError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path} is not the metadata of a checkpoint ({said}): {REMEDY}"
        ) from error


class _StandIn:
    """An instance of one of torch's classes as it was pickled: its state alone."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Knows nothing but names of `CLASSES`, `IGNORED` and types of numbers."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        # Made anew for each file: a pickle can set attributes of the classes it names.
        self.known: dict[tuple[str, str], Any] = {
            (module, name): type(name, (_StandIn,), {})
            for module, names in CLASSES.items()
            for name in names
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.known:
            return self.known[module, name]
        if (module, name) in IGNORED:
            return lambda *_: None
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and isinstance(
            dtype := vars(torch).get(name), torch.dtype
        ):
            return dtype
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, which no checkpoint needs, and which was not"
            " imported"
        )


def _metadata(root: Any, folder: Path) -> Metadata:
    state = _state(root, "Metadata")
    tensors = {
        _checked(name, str): _entry(entry)
        for name, entry in _checked(state["state_dict_metadata"], dict).items()
    }
    files = {
        _index(index): _storage(info)
        for index, info in _checked(state["storage_data"], dict).items()
    }
    paths = {path.name: path for path in folder.iterdir()}
    sizes = {
        name: _num_bytes(folder, name, paths)
        for name in {info.relative_path for info in files.values()}
    }
    for index, info in files.items():
        size = sizes[info.relative_path]
        if info.offset + info.length > size:
            raise ConfigError(
                f"{folder / info.relative_path} has {size:,} bytes, too few for"
                f" {index.fqn}: {REMEDY}"
            )
    return Metadata(tensors, storage_data=files)


def _entry(entry: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if type(entry).__name__ == "BytesStorageMetadata":
        return BytesStorageMetadata()
    state = _state(entry, "TensorStorageMetadata")
    properties = _checked(state["properties"], _StandIn).state
    size = _size(state["size"])
    chunks = [
        ChunkStorageMetadata(_size(chunk["offsets"]), _size(chunk["sizes"]))
        for chunk in (
            _state(each, "ChunkStorageMetadata") for each in state["chunks"]
        )
    ]
    if sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(size):
        raise ValueError("the chunks of a tensor are not all of it")
    dtype = _checked(properties[0], torch.dtype)
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, chunks)


def _index(index: Any) -> MetadataIndex:
    state = _state(index, "MetadataIndex")
    offset = state.get("offset")
    return MetadataIndex(
        _checked(state["fqn"], str), None if offset is None else _size(offset)
    )


def _storage(info: Any) -> _StorageInfo:
    state = _state(info, "_StorageInfo")
    if state.get("transform_descriptors"):
        raise ValueError("it is compressed, which checkpoints of ours are not")
    offset, length = _size((state["offset"], state["length"]))
    return _StorageInfo(_checked(state["relative_path"], str), offset, length)


def _num_bytes(folder: Path, name: str, paths: Mapping[str, Path]) -> int:
    path = path_within(folder, name, f"{folder / METADATA}: the file")
    path = paths.get(name, path)  # at an object store listed with its size
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"{path} is missing, or a link: {REMEDY}")
    return path.stat().st_size


def _size(values: Any) -> torch.Size:
    if any(_checked(each, int) < 0 for each in _checked(values, tuple)):
        raise ValueError("a size is negative")
    return torch.Size(values)


def _state(value: Any, name: str) -> dict[str, Any]:
    """The state of a stand-in for the class of that name."""
    if not (isinstance(value, _StandIn) and type(value).__name__ == name):
        raise TypeError(f"{type(value).__name__} in place of {name}")
    return _checked(value.state, dict)


def _checked(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value
