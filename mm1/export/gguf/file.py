"""GGUF, the format of llama.cpp: one file with metadata and, mostly quantised, weights.

The library `gguf` of llama.cpp's authors reads it and dequantises.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.extras import needs_extra
from mm1.files import FRESH_COPY
from mm1.weight_files import Layout, Slices, StoredTensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Kinds of weights that are no quantisation; all others become fp32."""
INTEGERS = {"I8", "I16", "I32", "I64"}
MAGIC = b"GGUF"


@dataclass(frozen=True, slots=True)
class GGUFFile:
    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]
    """By their names in the file; read and dequantised when needed."""


def gguf_library() -> Any:
    """Raises ConfigError if the extra is not installed."""
    with needs_extra("gguf", "GGUF"):
        import gguf
    return gguf


def read_gguf(path: Path) -> GGUFFile:
    """Metadata and tensors of a file; no weight is read yet.

    Raises:
        ConfigError: the file is damaged, of another format, one of several shards, or
            has a quantisation that the library cannot undo; or the extra is not
            installed.
    """
    gguf = gguf_library()
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic != MAGIC:
        raise ConfigError(f"{path} is no GGUF file: it begins with {magic!r}")
    try:
        reader = gguf.GGUFReader(path)
        metadata = {key: f.contents() for key, f in reader.fields.items()}
    # A damaged file makes the library fail in any way.
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path} is damaged, truncated or newer than the library gguf"
            f" ({said[:200]}); {FRESH_COPY}, or upgrade gguf"
        ) from error
    if metadata.get("split.count", 1) > 1:
        raise ConfigError(
            f"{path} is one of {metadata['split.count']} shards: join them first, with"
            " llama.cpp's `llama-gguf-split --merge`"
        )
    _check_kinds(path, reader.tensors, gguf.dequantize)
    stored = {t.name: _stored(t, gguf.dequantize) for t in reader.tensors}
    return GGUFFile(path, metadata, stored)


def _check_kinds(
    path: Path, tensors: Any, dequantize: Callable[..., Any]
) -> None:
    """Raises ConfigError for a quantisation that the library cannot undo: one row of
    each kind is tried."""
    examples = {t.tensor_type.name: t for t in tensors}
    for kind, tensor in examples.items():
        if kind in INTEGERS:
            continue
        try:
            dequantize(tensor.data[:1], tensor.tensor_type)
        except NotImplementedError as error:
            raise ConfigError(
                f"{path}: {tensor.name} is quantised as {kind}, which the library gguf"
                " does not dequantise: get a file with another quantisation, such as"
                " Q8_0, or upgrade gguf"
            ) from error


def _stored(tensor: Any, dequantize: Callable[..., Any]) -> StoredTensor:
    kind = tensor.tensor_type.name
    if kind in INTEGERS:
        return StoredTensor(None, kind, lambda slices: torch.empty(0))
    dtype = DTYPES.get(kind, torch.float32)
    # A GGUF lists the fastest axis first.
    layout = Layout(dtype, tuple(int(n) for n in reversed(tensor.shape)))

    def read(slices: Slices | None) -> Tensor:
        numbers = np.array(dequantize(tensor.data, tensor.tensor_type))
        whole = torch.from_numpy(numbers).reshape(layout.shape).to(dtype)
        return whole if slices is None else whole[slices]

    return StoredTensor(layout, kind, read)
