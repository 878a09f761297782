"""Weights in files, read and written one by one: safetensors, in one file or in shards
with an index, as the Hugging Face libraries have them.

    model.safetensors                       all of a model up to 5 GB, or
    model-00001-of-00003.safetensors ...    shards of at most so much, and
    model.safetensors.index.json            the shard that each tensor is in

Nothing here holds a whole model: memory is that of the largest tensor, whatever the
size of the model.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mm1.config import ConfigError
from mm1.dist import say
from mm1.files import FRESH_COPY, path_within, read_object, write_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"
"""Matches the names of shards."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""By their names in a file. Wider ones come first there, so that every tensor is
aligned."""

NAMES = {dtype: name for name, dtype in DTYPES.items()}

MAX_SHARD_BYTES = 5_000_000_000
BLOCK_BYTES = 1 << 26
"""Written at once."""


class Layout(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


Slices = tuple[slice, ...]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a file."""

    layout: Layout | None
    """None: of a type that no weight has. Old files hold counters and masks, which
    matter only if they are used."""
    kind: str
    read: Callable[[Slices | None], Tensor]


class WeightFiles:
    """Named tensors of one file or several, read when needed, whole or in slices."""

    def __init__(
        self,
        origin: Path,
        files: Mapping[Path, Mapping[str, StoredTensor]],
        *,
        remedy: str = FRESH_COPY,
        if_not_finite: str = "get a fresh copy of the weights",
    ) -> None:
        """The remedies end what is said of damage, and of numbers that are NaN.

        Raises:
            ConfigError: two files hold a tensor of the same name.
        """
        self.origin = origin
        self.if_not_finite = if_not_finite
        self.entries: dict[str, StoredTensor] = {}
        self.files: dict[str, Path] = {}
        """Tensor -> the file that holds it."""
        for file, entries in files.items():
            for name, entry in entries.items():
                if name in self.entries:
                    raise ConfigError(
                        f"{file} holds {name} once more: another shard has it already;"
                        f" {remedy}"
                    )
                self.entries[name] = entry
                self.files[name] = file
        self.names = self.entries.keys()

    def layout(self, name: str) -> Layout:
        """Raises ConfigError if the tensor does not hold floating-point numbers."""
        entry = self.entries[name]
        if entry.layout is None:
            kinds = ", ".join(DTYPES)
            raise ConfigError(
                f"{self.origin}: {name} is {entry.kind}; only {kinds} can be read: no"
                " quantised weights"
            )
        return entry.layout

    def meta(self, name: str) -> Tensor:
        return torch.empty(
            self.layout(name).shape,
            dtype=self.layout(name).dtype,
            device="meta",
        )

    def tensor(self, name: str, slices: Slices | None = None) -> Tensor:
        """A tensor, or the slice of it that `slices` names, which alone is read.

        Raises:
            ConfigError: a number is not finite: such weights give only NaN.
        """
        tensor = self.entries[name].read(slices)
        # The extremes are finite only if all are; a thirtieth of the time for bf16 on
        # a CPU.
        if (
            tensor.is_floating_point()
            and tensor.numel()
            and not torch.stack(tensor.aminmax()).isfinite().all()
        ):
            bad = int((~tensor.isfinite()).sum())
            raise ConfigError(
                f"{self.files[name]}: {bad:,} numbers of {name} are NaN or infinite;"
                f" {self.if_not_finite}"
            )
        return tensor


def model_files(
    folder: Path, name: str = WEIGHTS, remedy: str = FRESH_COPY
) -> list[Path]:
    """The one file of this name, or the shards in its index; none if there is neither.

    Where both are there, transformers reads the one file, and so do we.

    Raises:
        FileNotFoundError: a shard that the index names is missing.
        ConfigError: the index is damaged, or names a file outside the folder.
    """
    index = folder / f"{name}.index.json"
    if (folder / name).is_file():
        if index.is_file():
            say(
                f"note: {folder / name} is read, not the shards of {index.name}"
            )
        return [folder / name]
    if not index.is_file():
        return []
    where = read_object(index, remedy).get("weight_map")
    if (
        not isinstance(where, dict)
        or not where
        or not all(isinstance(file, str) for file in where.values())
    ):
        raise ConfigError(
            f"{index} is no index of shards: its weight_map must name a file for each"
            f" tensor; {remedy}"
        )
    files = sorted(set(where.values()))
    for file in files:
        path_within(folder, file, f"{index}: the shard")
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks the shards {', '.join(missing)} that {index.name} names;"
            f" {remedy}"
        )
    return [folder / file for file in files]


def read_safetensors(
    path: Path, remedy: str = FRESH_COPY
) -> dict[str, StoredTensor]:
    """What a safetensors file holds, by name; no tensor is read yet.

    Raises:
        ConfigError: the file is damaged or of another format.
    """
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ConfigError(
            f"{path} is damaged or no safetensors file ({error}); {remedy}"
        ) from error
    entries = {}
    for name in file.keys():  # noqa: SIM118 (not a dict)
        part = file.get_slice(name)
        kind = part.get_dtype()
        layout = (
            Layout(DTYPES[kind], tuple(part.get_shape()))
            if kind in DTYPES
            else None
        )

        def read(slices: Slices | None, name: str = name) -> Tensor:
            if slices is None:
                return file.get_tensor(name)
            return file.get_slice(name)[slices]

        entries[name] = StoredTensor(layout, kind, read)
    return entries


def write(
    path: Path,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Writes one safetensors file, laid out as the library lays it out, with only one
    tensor in memory at a time."""
    writer = SafetensorsWriter(path, layouts)
    try:
        for name, tensor in tensors:
            writer.put(name, tensor)
        writer.finish()
    finally:
        writer.file.close()


def write_sharded(
    folder: Path,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[Path]:
    """Writes `model.safetensors`, or shards of at most this size with their index, as
    the Hugging Face libraries expect them; returns all files.

    `tensors` are in the order of `layouts`.
    """
    shards = plan_shards(layouts, max_shard_bytes)
    stream = iter(tensors)
    for name, shard in shards.items():
        write(folder / name, shard, (next(stream) for _ in shard))
    files = [folder / name for name in shards]
    if WEIGHTS not in shards:
        write_json(folder / INDEX, shard_index(shards))
        files.append(folder / INDEX)
    return files


def plan_shards(
    layouts: Mapping[str, Layout], max_shard_bytes: int
) -> dict[str, dict[str, Layout]]:
    """File name -> what is in it: `model.safetensors` has everything if it is not too
    large, else shards take tensors in order. A tensor is never cut."""
    shards: list[dict[str, Layout]] = [{}]
    num_bytes = 0
    for name, layout in layouts.items():
        if shards[-1] and num_bytes + layout.num_bytes > max_shard_bytes:
            shards.append({})
            num_bytes = 0
        shards[-1][name] = layout
        num_bytes += layout.num_bytes
    if len(shards) == 1:
        return {WEIGHTS: shards[0]}
    return {
        f"model-{i + 1:05}-of-{len(shards):05}.safetensors": shard
        for i, shard in enumerate(shards)
    }


def shard_index(shards: Mapping[str, Mapping[str, Layout]]) -> dict[str, Any]:
    """The content of `model.safetensors.index.json`."""
    total = sum(
        layout.num_bytes
        for shard in shards.values()
        for layout in shard.values()
    )
    return {
        "metadata": {"total_size": total},
        "weight_map": {
            name: file for file, shard in shards.items() for name in shard
        },
    }


def in_file_order(layouts: Mapping[str, Layout]) -> dict[str, Layout]:
    """As the safetensors library orders tensors: wider types first, then by name."""
    widths = list(DTYPES.values())
    return dict(
        sorted(
            layouts.items(),
            key=lambda item: (widths.index(item[1].dtype), item[0]),
        )
    )


class SafetensorsWriter:
    """Writes the header first, which needs only types and shapes, then every tensor to
    its place."""

    def __init__(self, path: Path, layouts: Mapping[str, Layout]) -> None:
        """Raises OSError: the file cannot be written."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, layout in in_file_order(layouts).items():
            begin = end
            end = end + layout.num_bytes
            header[name] = {
                "dtype": NAMES[layout.dtype],
                "shape": list(layout.shape),
                "data_offsets": [begin, end],
            }
        text = json.dumps(
            header, separators=(",", ":"), ensure_ascii=False
        ).encode()
        text += b" " * (-len(text) % 8)
        self.layouts = layouts
        self.missing = set(layouts)
        self.places = {
            name: 8 + len(text) + header[name]["data_offsets"][0]
            for name in layouts
        }
        # Unbuffered, so that a full disk shows as a tensor is written.
        self.file = path.open("wb", buffering=0)
        try:
            self._write(len(text).to_bytes(8, "little") + text)
        except OSError:
            self.file.close()
            raise

    def put(
        self,
        name: str,
        tensor: Tensor,
        on_block: Callable[[], None] = lambda: None,
    ) -> None:
        """Writes a tensor block by block; `on_block` is called after each.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        if Layout.of(tensor) != self.layouts[name]:
            raise RuntimeError(
                f"{name} is {Layout.of(tensor)}, laid out as {self.layouts[name]}"
            )
        self.file.seek(self.places[name])
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().data
        for start in range(0, len(data), BLOCK_BYTES):
            self._write(data[start : start + BLOCK_BYTES])
            on_block()
        self.missing.remove(name)

    def finish(self) -> None:
        """Raises OSError: the disk is full, or cannot be written."""
        self.file.close()
        if self.missing:
            raise RuntimeError(f"never written: {sorted(self.missing)}")

    def _write(self, data: bytes | memoryview) -> None:
        while data:  # an unbuffered file may write less than it is given
            data = data[self.file.write(data) :]
