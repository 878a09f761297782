"""A run's weights: writing, loading, and starting another run's part from them."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from mm1 import dist
from mm1.checksums import check_file, checked_path, checksum
from mm1.config import ConfigError, UserError, nearest
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.infer.trained_model import TrainedModel, make_renderer
from mm1.nn.model import Model, adapt
from mm1.runs.description import read_config
from mm1.weight_files import (
    INDEX,
    WEIGHTS,
    WeightFiles,
    model_files,
    read_safetensors,
)

REMEDY = (
    "take it from a copy of the run, or resume the run with `mm1 train --resume`, which"
    " writes it again from the last checkpoint"
)
TRAIN_AGAIN = (
    "take the file from a copy of the run, or train it again with a lower"
    " optimizer.peak_lr"
)


class RunWeights(WeightFiles):
    """The weights of a finished run, once its files are known to be those that it
    wrote: one file, or shards with an index (`mm1.weight_files`)."""

    def __init__(self, folder: Path) -> None:
        """All ranks must call this: rank 0 alone checks the files.

        Raises:
            FileNotFoundError: the run has not finished, or a shard is missing.
            ConfigError: a file is not the one that the run wrote.
        """
        self.fingerprint: str = weights_fingerprint(folder)
        files = weights_paths(folder)
        super().__init__(
            folder,
            {file: read_safetensors(file, REMEDY) for file in files},
            remedy=REMEDY,
            if_not_finite=TRAIN_AGAIN,
        )


def weights_paths(folder: Path) -> list[Path]:
    """The file of a run's weights, or its shards in order.

    Raises:
        FileNotFoundError: the run has not finished, or a shard is missing.
        ConfigError: the index is damaged.
    """
    files = model_files(folder, remedy=REMEDY)
    if not files:
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}: the run has not finished; resume it with"
            " `mm1 train --resume`"
        )
    return files


def write_weights(folder: Path, state: Mapping[str, Any]) -> None:
    """Writes unsharded tensors to one file; tied ones once, under their first name.

    Raises:
        UserError: the disk is full, or cannot be written.
    """
    seen: dict[int, str] = {}
    unique = {}
    for name, tensor in state.items():
        if seen.setdefault(tensor.data_ptr(), name) == name:
            unique[name] = tensor.detach().cpu().contiguous()
    try:
        with checked_path(folder / WEIGHTS) as path:
            save_file(unique, path, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        num_bytes = sum(tensor.nbytes for tensor in unique.values())
        raise UserError(
            f"{folder / WEIGHTS} could not be written ({error}): it needs"
            f" {num_bytes:,} bytes, {shutil.disk_usage(folder).free:,} are free; make"
            " room, and resume the run with --resume"
        ) from error


def weights_fingerprint(folder: Path) -> str:
    """A fingerprint of the weights: predictions made with others are not reused.

    Rank 0 alone reads the files, block by block; all ranks must call this.

    Raises:
        FileNotFoundError: the run has not finished, or a shard is missing.
        ConfigError: a file is not the one that the run wrote.
    """

    def fingerprint() -> str:
        hashes = []
        paths = weights_paths(folder)
        if paths[0].name != WEIGHTS:
            check_file(folder / INDEX, REMEDY)
        for path in paths:
            found = checksum(path)
            check_file(path, REMEDY, found)
            hashes.append(found["xxh3_128"])
        return joint_fingerprint(hashes)

    return dist.on_rank_zero(fingerprint)


def joint_fingerprint(hashes: Sequence[str]) -> str:
    """Of the files with these hashes, in order."""
    joint = (
        hashes[0]
        if len(hashes) == 1
        else xxhash.xxh3_128_hexdigest("".join(hashes).encode())
    )
    return joint[:16]


def load_part(
    model: Model, part: str, folder: Path, *, tokenizer: Tokenizer
) -> None:
    """Loads a part's weights from the same part of a finished run.

    Position embeddings of another patch grid are interpolated, a dense decoder is
    upcycled to experts (see `adapt`).

    Raises:
        ConfigError: either model lacks the part, its embeddings are of another
            tokenizer, or tensors do not fit; all of them are named.
    """
    parts = model.parts()
    if part not in parts:
        raise ConfigError(f"init names the part {part!r}{nearest(part, parts)}")
    prefix = f"{part}."
    weights = RunWeights(folder)
    if any(
        isinstance(module, nn.Embedding) for module in parts[part].modules()
    ):
        _check_tokenizer(part, folder, tokenizer)
    state = {
        name.removeprefix(prefix): weights.tensor(name)
        for name in weights.names
        if name.startswith(prefix)
    }
    if not state:
        raise ConfigError(f"{folder} has no part {part!r}")
    wanted = parts[part].state_dict()
    state = adapt(parts[part], state)
    wrong = [
        f"{n}: {tuple(state[n].shape)}, not {tuple(w.shape)}"
        for n, w in wanted.items()
        if n in state and state[n].shape != w.shape
    ]
    missing = sorted(wanted.keys() - state.keys())
    extra = sorted(state.keys() - wanted.keys())
    tied = {
        n
        for n in missing
        if any(wanted[n].data_ptr() == wanted[o].data_ptr() for o in state)
    }
    if wrong or extra or set(missing) - tied:
        raise ConfigError(
            f"{part} of {folder} does not fit: shapes {wrong}, missing {missing}, not"
            f" known here {extra}"
        )
    parts[part].load_state_dict(state, strict=False)


def _check_tokenizer(part: str, folder: Path, tokenizer: Tokenizer) -> None:
    """Raises ConfigError if token embeddings would be used with another vocabulary."""
    theirs = Tokenizer.Config(path=str(folder)).build().fingerprint
    if theirs != tokenizer.fingerprint:
        raise ConfigError(
            f"init.{part}={folder} was trained with the tokenizer {theirs}, this run's"
            f" data were prepared with {tokenizer.fingerprint}: prepare them with"
            f" --tokenizer {folder}"
        )


def load_model(
    folder: Path, device: torch.device, *, config: Any = None
) -> tuple[Model, Renderer, Any]:
    """A finished run's model in the precision it computes in, its renderer and config.

    A `config` replaces the folder's: for another precision, or other sub-images. All
    ranks must call this.

    Raises:
        ConfigError: the weights are damaged, hold numbers that are not finite, or do
            not fit the config.
    """
    config = config or read_config(folder)
    tokenizer = Tokenizer.Config(path=str(folder)).build()
    model = config.model.build(vocab_size=tokenizer.vocab_size)
    weights = RunWeights(folder)
    state = {name: weights.tensor(name) for name in weights.names}
    missing, unexpected = model.load_state_dict(state, strict=False)
    shared = {
        name for name, _ in model.named_parameters(remove_duplicate=False)
    } - {n for n, _ in model.named_parameters()}
    if unexpected or set(missing) - shared:
        raise ConfigError(
            f"{folder}: the weights lack {missing}, not known here {unexpected}"
        )
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return (
        model.to(device, dtype).eval(),
        make_renderer(model, tokenizer, config.loader),
        config,
    )


def load_trained(folder: Path) -> tuple[TrainedModel, str]:
    """A finished run's model on this process's device, and a name that identifies its
    weights."""
    model, renderer, _ = load_model(folder, device := dist.start())
    return (
        TrainedModel(model, renderer, device),
        f"{folder.resolve().name} {weights_fingerprint(folder)}",
    )
