"""The weights of a published model: safetensors in any number of shards, or pickles.

Pickles are refused unless asked for, and then read by torch's loader that runs no code
(`weights_only=True`).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mm1.config import ConfigError
from mm1.weight_files import (
    INDEX,
    NAMES,
    Layout,
    StoredTensor,
    WeightFiles,
    model_files,
    read_safetensors,
)

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Weights(WeightFiles):
    """The tensors of a published model."""

    def __init__(self, path: Path, *, pickle: bool = False) -> None:
        """`path` is a file, or a folder with `model.safetensors`, its shards and their
        index, or one other such file.

        Raises:
            FileNotFoundError: there are no weights, or a shard that the index names is
                missing.
            ConfigError: the weights are pickles and `pickle` is off; a file is damaged
                or holds quantised numbers.
        """
        files = {
            file: read_safetensors(file)
            if file.suffix == ".safetensors"
            else _unpickled(file)
            for file in _files(path, pickle=pickle)
        }
        super().__init__(path, files)


def _files(path: Path, *, pickle: bool) -> list[Path]:
    """The files of a checkpoint, in order."""
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = (
            model_files(path)
            or sorted(path.glob("*.safetensors"))
            or model_files(path, "pytorch_model.bin")
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
    elif len(files) > 1 and not (path / INDEX).is_file():
        names = ", ".join(file.name for file in files)
        raise ConfigError(
            f"{path} has several files of weights and no index: {names}; name one of"
            " them"
        )
    return files


def _unpickled(path: Path) -> dict[str, StoredTensor]:
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
        name: StoredTensor(
            Layout.of(t) if t.dtype in NAMES else None,
            str(t.dtype),
            lambda slices, t=t: t if slices is None else t[slices],
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
