"""A checkpoint from a stranger runs nothing when it is read, and reads nothing outside
its folder."""

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
)

from mm1 import dist
from mm1.config import ConfigError
from mm1.train.checkpoint_reader import (
    CheckpointReader,
    load_state,
    read_metadata,
)


class Runs:
    """Unpickled plainly, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def state(fill: float) -> dict[str, Any]:
    return {
        "model": {"w": torch.full((3, 4), fill), "b": torch.full((), fill)},
        "optimizer": {"lr": fill, "betas": (0.9, fill), "name": None},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    dist.start()
    folder = tmp_path / "step-00000007"
    dcp.save(state(2.0), checkpoint_id=folder)
    return folder


def change(folder: Path, edit: Callable[[Metadata], Any]) -> None:
    """Rewrites `.metadata` as a plain pickle of what `edit` returns, or has edited."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(edit(metadata) or metadata))


def refused(folder: Path, said: str) -> None:
    target = state(1.0)
    with pytest.raises(ConfigError, match=said) as error:
        load_state(target, CheckpointReader(folder), {})
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_checkpoint_of_torch_is_read_as_torch_reads_it(folder: Path) -> None:
    ours = state(1.0)
    load_state(ours, CheckpointReader(folder), {})
    assert torch.equal(ours["model"]["w"], torch.full((3, 4), 2.0))
    assert ours["model"]["b"] == 2.0
    assert ours["optimizer"] == {"lr": 2.0, "betas": (0.9, 2.0), "name": None}
    theirs = pickle.loads((folder / ".metadata").read_bytes())
    read = read_metadata(folder)
    assert read.state_dict_metadata == theirs.state_dict_metadata
    assert read.storage_data == theirs.storage_data


PLANTED: dict[str, Callable[[Metadata, Runs], Any]] = {
    "in place of all": lambda metadata, runs: runs,
    "as a name": lambda m, runs: m.state_dict_metadata.update({runs: None}),
    "as a file": lambda m, runs: m.storage_data.update({"a": runs}),
    "where nothing is read": lambda m, runs: setattr(m, "planner_data", runs),
    "in what is said of the save": lambda m, runs: setattr(
        m, "storage_meta", runs
    ),
}


@pytest.mark.parametrize("place", PLANTED)
def test_a_call_in_the_metadata_is_not_made(
    place: str, folder: Path, tmp_path: Path
) -> None:
    change(folder, lambda m: PLANTED[place](m, Runs(tmp_path / "ran")))
    refused(folder, r"posix\.mkdir, which no checkpoint needs")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_edits_classes_edits_none(folder: Path) -> None:
    """BUILD with a pair sets attributes of whatever is on the stack."""
    code = (
        b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\n"
        b"N}X\x07\x00\x00\x00plantedK\x01s\x86b."
    )
    (folder / ".metadata").write_bytes(code)
    refused(folder, "is not the metadata of a checkpoint")
    assert not hasattr(Metadata, "planted")


@pytest.mark.parametrize("name", ["optimizer.lr", "model.w"])
def test_a_call_among_the_values_is_not_made(
    name: str, folder: Path, tmp_path: Path
) -> None:
    """A value that is no tensor is a pickle of its own within the shards."""
    planted = io.BytesIO()
    torch.save(Runs(tmp_path / "ran"), planted)
    (folder / "planted").write_bytes(planted.getvalue())

    def edit(metadata: Metadata) -> None:
        for index in list(metadata.storage_data):
            if index.fqn == name:
                info = metadata.storage_data.pop(index)
                info.relative_path = "planted"
                info.offset = 0
                info.length = len(planted.getvalue())
                bare = type(index)(name)
                metadata.storage_data[bare] = info
        metadata.state_dict_metadata[name] = BytesStorageMetadata()

    change(folder, edit)
    refused(folder, "cannot be read")
    assert not (tmp_path / "ran").exists()


def test_a_number_in_place_of_a_tensor(folder: Path) -> None:
    def edit(metadata: Metadata) -> None:
        by_name = {index.fqn: index for index in metadata.storage_data}
        lr = metadata.storage_data[by_name["optimizer.lr"]]
        index = by_name["model.w"]
        del metadata.storage_data[index]
        metadata.storage_data[type(index)("model.w")] = lr
        metadata.state_dict_metadata["model.w"] = BytesStorageMetadata()

    change(folder, edit)
    refused(folder, "model.w is of the type float, not Tensor")


def shards(metadata: Metadata) -> Any:
    return next(iter(metadata.storage_data.values()))


def first_tensor(metadata: Metadata) -> Any:
    return metadata.state_dict_metadata["model.w"]


FAULTS: dict[str, tuple[Callable[[Metadata], Any], str]] = {
    "a file above": (
        lambda m: setattr(shards(m), "relative_path", "../outside"),
        "leads out of",
    ),
    "an absolute path": (
        lambda m: setattr(shards(m), "relative_path", "/etc/hostname"),
        "leads out of",
    ),
    "a link out of the folder": (
        lambda m: setattr(shards(m), "relative_path", "link"),
        "link is missing, or a link",
    ),
    "no such file": (
        lambda m: setattr(shards(m), "relative_path", "__9_0.distcp"),
        "__9_0.distcp is missing",
    ),
    "beyond the end": (
        lambda m: setattr(shards(m), "length", 1 << 40),
        "too few for",
    ),
    "before the start": (
        lambda m: setattr(shards(m), "offset", -1),
        "a size is negative",
    ),
    "compressed": (
        lambda m: setattr(shards(m), "transform_descriptors", ["zstd"]),
        "it is compressed",
    ),
    "half a tensor": (
        lambda m: setattr(
            first_tensor(m),
            "chunks",
            [ChunkStorageMetadata(torch.Size((0, 0)), torch.Size((1, 4)))],
        ),
        "not all of it",
    ),
    "a size of words": (
        lambda m: setattr(first_tensor(m), "size", ("3", "4")),
        "str in place of int",
    ),
    "no sizes": (
        lambda m: setattr(first_tensor(m), "chunks", None),
        "NoneType",
    ),
    "a list": (lambda m: [1, 2], "list in place of Metadata"),
    "nothing of the model": (
        lambda m: setattr(m, "state_dict_metadata", {}),
        "Missing key in checkpoint",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_metadata_that_torch_does_not_write(
    fault: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"")
    (folder / "link").symlink_to(tmp_path / "outside")
    edit, said = FAULTS[fault]
    change(folder, edit)
    refused(folder, said)


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", b"}."])
def test_a_damaged_file(content: bytes, folder: Path) -> None:
    (folder / ".metadata").write_bytes(content)
    refused(folder, "is not the metadata of a checkpoint")


def test_a_missing_file(folder: Path) -> None:
    (folder / ".metadata").unlink()
    refused(folder, "has no .metadata")
