"""Tensors in files, read and written one by one: safetensors in any number of shards.

Nothing here holds a whole checkpoint: memory is that of the largest tensor, whatever
the size of the model. Pickles are refused unless asked for, and then read by torch's
loader that runs no code (`weights_only=True`).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mm1.config import ConfigError
from mm1.dist import say
from mm1.files import FRESH_COPY, path_within, read_object, write_json

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

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Layout(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "Layout":
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def num_bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass(frozen=True, slots=True)
class _Entry:
    layout: Layout | None
    """None: of a type that no weight has. Old files hold counters and masks, which
    matter only if they are used."""
    kind: str
    read: Callable[[], Tensor]


class Weights:
    """Named tensors of one file or of a folder's shards, read when needed."""

    def __init__(self, path: Path, *, pickle: bool = False) -> None:
        """`path` is a file, or a folder with `model.safetensors`, its shards and their
        index, or one other such file.

        Raises:
            FileNotFoundError: there are no weights, or a shard that the index names is
                missing.
            ConfigError: the weights are pickles and `pickle` is off; a file is damaged
                or holds quantised numbers.
        """
        self.origin = path
        self.entries: dict[str, _Entry] = {}
        for file in _files(path, pickle=pickle):
            for name, entry in (
                _safetensors(file)
                if file.suffix == ".safetensors"
                else _unpickled(file)
            ).items():
                if name in self.entries:
                    raise ConfigError(
                        f"{file} holds {name} once more: another shard has it already"
                    )
                self.entries[name] = entry
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

    def tensor(self, name: str) -> Tensor:
        """Raises ConfigError if a number is not finite: such weights give only NaN."""
        tensor = self.entries[name].read()
        # Checking the extremes is as good as checking all numbers, in a thirtieth of
        # the time for bf16 on a CPU.
        if (
            tensor.numel()
            and not torch.stack(tensor.aminmax()).isfinite().all()
        ):
            bad = int((~tensor.isfinite()).sum())
            raise ConfigError(
                f"{self.origin}: {bad:,} numbers of {name} are NaN or infinite; get a"
                " fresh copy of the weights"
            )
        return tensor


def _files(path: Path, *, pickle: bool) -> list[Path]:
    """The files of a checkpoint, in order."""
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = (
            _shards(path, "model.safetensors")
            or sorted(path.glob("*.safetensors"))
            or _shards(path, "pytorch_model.bin")
            or sorted({file for p in PICKLES for file in path.glob(p)})
        )
    else:
        raise FileNotFoundError(f"no file or folder {path}")
    if not files:
        raise FileNotFoundError(
            f"{path} has no weights: neither model.safetensors nor its shards"
        )
    if pickles := [
        file.name for file in files if file.suffix != ".safetensors"
    ]:
        if not pickle:
            raise ConfigError(
                f"{path}: {pickles[0]} is a pickle, which may run code when it is read;"
                " use safetensors, or add --pickle to read it with"
                " torch.load(weights_only=True), which runs none"
            )
    elif (
        len(files) > 1 and not (path / "model.safetensors.index.json").is_file()
    ):
        names = ", ".join(file.name for file in files)
        raise ConfigError(
            f"{path} has several files of weights and no index: {names}; name one of"
            " them"
        )
    return files


def _shards(folder: Path, name: str) -> list[Path]:
    """The one file of this name, or the shards in its index, if there are any.

    Where both are there, transformers reads the one file, and so do we.
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
    stored = read_object(index, FRESH_COPY)
    try:
        files = sorted(set(stored["weight_map"].values()))
        for file in files:
            path_within(folder, file, f"{index}: the shard")
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{index} is no index of shards: {error!r}; get a fresh copy"
        ) from error
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise FileNotFoundError(
            f"{folder} lacks the shards {', '.join(missing)} that {index.name} names;"
            " download again"
        )
    return [folder / file for file in files]


def _safetensors(path: Path) -> dict[str, _Entry]:
    try:
        file = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ConfigError(
            f"{path} is damaged or no safetensors file ({error}); get a fresh copy"
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
        entries[name] = _Entry(
            layout, kind, lambda name=name: file.get_tensor(name)
        )
    return entries


def _unpickled(path: Path) -> dict[str, _Entry]:
    """Tensors of a state dict, by itself or under one of the usual keys."""
    try:
        state: Any = torch.load(
            path, map_location="cpu", weights_only=True, mmap=True
        )
    except Exception as error:  # a damaged or unsafe file may fail in any way
        raise ConfigError(
            f"{path} cannot be read with weights_only=True:"
            f" {_reason(error)}{_scripted(path, error)}"
        ) from error
    for key in ("state_dict", "model"):
        state = (
            state[key]
            if isinstance(state, dict) and isinstance(state.get(key), dict)
            else state
        )
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ConfigError(f"{path} holds no state dict (names and tensors)")
    return {
        name: _Entry(
            Layout.of(t) if t.dtype in NAMES else None,
            str(t.dtype),
            lambda t=t: t,
        )
        for name, t in state.items()
    }


def _reason(error: Exception) -> str:
    """The line of torch's message that says what is wrong."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    told = (s for s in lines if "Unpickler error" in s or " GLOBAL " in s)
    return next(told, lines[0]).strip()


def _scripted(path: Path, error: Exception) -> str:
    """The remedy for a TorchScript archive, such as OpenAI's own CLIP files."""
    if "TorchScript" not in str(error):
        return ""
    state = f"dict(torch.jit.load({path.name!r}).state_dict())"
    return (
        " Such an archive holds code. If you trust it:"
        f" `safetensors.torch.save_file({state}, 'model.safetensors')`"
    )


def write(
    path: Path,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Writes one safetensors file, laid out as the library lays it out, with only one
    tensor in memory at a time."""
    with _Writer(path, layouts) as writer:
        for name, tensor in tensors:
            writer.put(name, tensor)


def write_sharded(
    folder: Path,
    layouts: Mapping[str, Layout],
    tensors: Iterable[tuple[str, Tensor]],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes `model.safetensors`, or shards of at most this size with their index, as
    the Hugging Face libraries expect them.

    `tensors` are in the order of `layouts`.
    """
    shards = list(_cut(layouts, max_shard_bytes))
    names = [
        f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        for i in range(len(shards))
    ]
    stream = iter(tensors)
    for file, shard in zip(
        names if len(shards) > 1 else ["model.safetensors"], shards, strict=True
    ):
        write(folder / file, shard, (next(stream) for _ in shard))
    if len(shards) > 1:
        total = sum(layout.num_bytes for layout in layouts.values())
        where = {
            name: file
            for file, shard in zip(names, shards, strict=True)
            for name in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": where}
        write_json(folder / "model.safetensors.index.json", index)


def _cut(
    layouts: Mapping[str, Layout], most: int
) -> Iterator[dict[str, Layout]]:
    shard: dict[str, Layout] = {}
    for name, layout in layouts.items():
        if (
            shard
            and sum(other.num_bytes for other in shard.values())
            + layout.num_bytes
            > most
        ):
            yield shard
            shard = {}
        shard[name] = layout
    yield shard


class _Writer:
    """Writes the header first, which needs only types and shapes, then every tensor to
    its place."""

    def __init__(self, path: Path, layouts: Mapping[str, Layout]) -> None:
        rank = list(DTYPES.values())
        ordered = sorted(
            layouts.items(),
            key=lambda item: (rank.index(item[1].dtype), item[0]),
        )
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, layout in ordered:
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
        self.file = path.open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)

    def __enter__(self) -> "_Writer":
        return self

    def put(self, name: str, tensor: Tensor) -> None:
        if Layout.of(tensor) != self.layouts[name]:
            raise RuntimeError(
                f"{name} is {Layout.of(tensor)}, laid out as {self.layouts[name]}"
            )
        self.file.seek(self.places[name])
        self.file.write(
            tensor.detach()
            .cpu()
            .contiguous()
            .reshape(-1)
            .view(torch.uint8)
            .numpy()
            .data
        )
        self.missing.remove(name)

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.file.close()
        if kind is None and self.missing:
            raise RuntimeError(f"never written: {sorted(self.missing)}")
