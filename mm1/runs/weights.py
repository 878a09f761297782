"""A run's weights: writing, loading, and starting another run's part from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mm1 import dist
from mm1.checksums import check_file, checksum
from mm1.config import ConfigError, nearest
from mm1.data.render import Renderer
from mm1.data.tokenizer import Tokenizer
from mm1.infer.quantization import Quantization, quantize_weights
from mm1.infer.trained_model import TrainedModel, make_renderer
from mm1.nn.initialization import BLOCK, initialize_buffers
from mm1.nn.model import Model, Module, adapt
from mm1.nn.shards import fused_widths, held_indices, own_part, select
from mm1.runs.description import read_config
from mm1.runs.layout import resume_command
from mm1.runs.remote_weights import local_weights
from mm1.slow_work import Tick, slow_work, slow_work_on_rank_zero
from mm1.storage.remote_path import RemotePath
from mm1.weight_files import (
    INDEX,
    WEIGHTS,
    WeightFiles,
    model_files,
    read_safetensors,
)

Blocks = Iterator[tuple[Tensor, list[Tensor]]]


TRAIN_AGAIN = (
    "take the file from a copy of the run, or train it again with a lower"
    " optimizer.peak_lr"
)


def _remedy(folder: Path) -> str:
    return (
        "take it from a copy of the run, or resume the run with"
        f" `{resume_command(folder)}`, which writes it again from the last checkpoint"
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
        remedy = _remedy(folder)
        local = {file: file for file in files}
        if isinstance(folder, RemotePath):
            local = slow_work(
                lambda tick: {file: local_weights(file, tick) for file in files}
            )
        super().__init__(
            folder,
            {file: read_safetensors(local[file], remedy) for file in files},
            remedy=remedy,
            if_not_finite=TRAIN_AGAIN,
        )


def weights_paths(folder: Path) -> list[Path]:
    """The file of a run's weights, or its shards in order.

    Raises:
        FileNotFoundError: the run has not finished, or a shard is missing.
        ConfigError: the index is damaged.
    """
    files = model_files(folder, remedy=_remedy(folder))
    if not files:
        raise FileNotFoundError(
            f"{folder} has no {WEIGHTS}: the run has not finished; go on with it:"
            f" `{resume_command(folder)}`"
        )
    return files


def weights_fingerprint(folder: Path) -> str:
    """A fingerprint of the weights: predictions made with others are not reused.

    Rank 0 alone reads the files, block by block; all ranks must call this.

    Raises:
        FileNotFoundError: the run has not finished, or a shard is missing.
        ConfigError: a file is not the one that the run wrote.
    """

    def fingerprint(tick: Tick) -> str:
        hashes = []
        paths = weights_paths(folder)
        if paths[0].name != WEIGHTS:
            check_file(folder / INDEX, _remedy(folder))
        for path in paths:
            found = checksum(local_weights(path, tick), tick)
            check_file(path, _remedy(folder), found)
            hashes.append(found["xxh3_128"])
        return joint_fingerprint(hashes)

    return slow_work_on_rank_zero(fingerprint)


def joint_fingerprint(hashes: Sequence[str]) -> str:
    """Of the files with these hashes, in order."""
    joint = (
        hashes[0]
        if len(hashes) == 1
        else xxhash.xxh3_128_hexdigest("".join(hashes).encode())
    )
    return joint[:16]


def check_part(model: Model, part: str) -> None:
    """Raises ConfigError if the model has no part of that name."""
    if part not in (parts := model.parts()):
        raise ConfigError(f"init names the part {part!r}{nearest(part, parts)}")


def load_part(
    model: Model,
    part: str,
    folder: Path,
    *,
    tokenizer: Tokenizer,
    plain_name: Callable[[str], str | None] = str,
) -> None:
    """Loads a part's weights from the same part of a finished run: of a sharded model,
    the rows and columns that this rank holds. All ranks must call this.

    Position embeddings of another patch grid are interpolated, a dense decoder is
    upcycled to experts (see `adapt`). `plain_name` gives a parameter's name in the
    other run, or None if it is not from there.

    Raises:
        ConfigError: either model lacks the part, its embeddings are of another
            tokenizer, tensors do not fit (all of them are named), or numbers are not
            finite.
    """
    check_part(model, part)
    parts = model.parts()
    prefix = f"{part}."
    weights = RunWeights(folder)
    if any(
        isinstance(module, nn.Embedding) for module in parts[part].modules()
    ):
        _check_tokenizer(part, folder, tokenizer)
    given = {
        name.removeprefix(prefix): weights.meta(name)
        for name in weights.names
        if name.startswith(prefix)
    }
    if not given:
        raise ConfigError(f"{folder} has no part {part!r}")
    wanted = {
        plain: tensor
        for name, tensor in parts[part].state_dict(keep_vars=True).items()
        if (plain := plain_name(name)) is not None
    }
    fitted = adapt(parts[part], given)
    _check_fits(f"{part} of {folder}", wanted, fitted)

    fused = fused_widths(parts[part])

    def fill() -> None:
        for name in [n for n in fitted if fitted[n] is given.get(n)]:
            blocks = _blocks(wanted[name], fused.get(name, ()))
            _read(blocks, weights, prefix + name)
        for adapted in _adapted(parts[part], given, fitted, weights, prefix):
            for name, whole in adapted.items():
                _copy(_blocks(wanted[name], fused.get(name, ())), whole)

    dist.on_every_rank(fill)


def _check_fits(
    what: str, wanted: Mapping[str, Tensor], fitted: Mapping[str, Tensor]
) -> None:
    """Raises ConfigError if names or shapes differ, but for names of tied weights."""
    wrong = [
        f"{n}: {tuple(fitted[n].shape)}, not {tuple(w.shape)}"
        for n, w in wanted.items()
        if n in fitted and fitted[n].shape != w.shape
    ]
    missing = sorted(wanted.keys() - fitted.keys())
    extra = sorted(fitted.keys() - wanted.keys())
    filled = {id(wanted[n]) for n in wanted.keys() & fitted.keys()}
    tied = {n for n in missing if id(wanted[n]) in filled}
    if wrong or extra or set(missing) - tied:
        raise ConfigError(
            f"{what} does not fit: shapes {wrong}, missing {missing}, not known here"
            f" {extra}"
        )


def _read(blocks: Blocks, weights: RunWeights, name: str) -> None:
    """Fills what this rank holds of a parameter, some rows at a time."""
    for own, held in blocks:
        starts = [int(indices[0]) for indices in held]
        ends = [int(indices[-1]) + 1 for indices in held]
        piece = weights.tensor(name, tuple(map(slice, starts, ends)))
        own.copy_(
            select(
                piece,
                [i - start for i, start in zip(held, starts, strict=True)],
            )
        )


def _copy(blocks: Blocks, whole: Tensor) -> None:
    """Fills what this rank holds of a parameter from all of it."""
    if not isinstance(whole, DTensor):  # else its own, as it was initialised
        for own, held in blocks:
            own.copy_(select(whole, held))


@torch.no_grad()
def _blocks(parameter: Tensor, widths: Sequence[int]) -> Blocks:
    """What this rank holds of a parameter, of a fused map with these widths, in blocks
    of rows, each with its indices in the whole."""
    own = own_part(parameter).detach()
    if own.numel() > 0:
        rows, *others = held_indices(parameter, widths)
        size = max(1, BLOCK * len(own) // own.numel())
        for start in range(0, len(own), size):
            block = slice(start, start + size)
            yield own[block], [rows[block], *others]


def _adapted(
    part: nn.Module,
    given: Mapping[str, Tensor],
    fitted: Mapping[str, Tensor],
    weights: RunWeights,
    prefix: str,
) -> Iterator[dict[str, Tensor]]:
    """The tensors that `adapt` changes, those of one module at a time."""
    kept = {name for name in fitted if fitted[name] is given.get(name)}
    modules = dict(part.named_modules())
    owners: dict[str, list[str]] = {}
    for name in given.keys() - kept:
        path = name
        while path and not isinstance(modules.get(path), Module):
            path = path.rpartition(".")[0]
        owners.setdefault(path, []).append(name)
    for path, names in owners.items():
        inside = f"{path}." if path else ""
        own = {
            name.removeprefix(inside): weights.tensor(prefix + name)
            for name in names
        }
        yield {
            inside + name: value
            for name, value in adapt(modules[path], own).items()
        }


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
    folder: Path,
    device: torch.device,
    *,
    config: Any = None,
    weights: RunWeights | None = None,
) -> tuple[Model, Renderer, Any]:
    """A finished run's model in the precision it computes in, its renderer and config.

    Tensor by tensor: memory is that of the model and of one tensor. A `config` replaces
    the folder's: for another precision, or other sub-images. `weights` are the run's if
    they have been opened already. All ranks must call this.

    Raises:
        ConfigError: the weights are damaged, hold numbers that are not finite, or do
            not fit the config.
    """
    config = config or read_config(folder)
    tokenizer = Tokenizer.Config(path=str(folder)).build()
    weights = weights or RunWeights(folder)
    with torch.device("meta"):
        model = config.model.build(vocab_size=tokenizer.vocab_size)
    wanted = model.state_dict(keep_vars=True)
    given = {name: weights.meta(name) for name in weights.names}
    _check_fits(f"the model of {folder}", wanted, given)
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    model.to(dtype).to_empty(device=device)
    initialize_buffers(model)
    # Tied ones are written once, and `to_empty` unties them.
    names = {id(wanted[n]): n for n in wanted if n in weights.names}
    for name, tensor in model.state_dict().items():
        tensor.copy_(weights.tensor(names[id(wanted[name])]))
    return (
        model.eval(),
        make_renderer(model, tokenizer, config.loader),
        config,
    )


def load_trained(
    folder: Path, *, quantization: Quantization | None = None
) -> tuple[TrainedModel, str]:
    """A finished run's model on this process's device, and a name that identifies its
    weights."""
    device = dist.start()
    config = read_config(folder)  # may be refused before weights are looked for
    weights = RunWeights(folder)
    model, renderer, _ = load_model(
        folder, device, config=config, weights=weights
    )
    if quantization is not None:
        quantize_weights(model, quantization)
    return (
        TrainedModel(model, renderer, device),
        f"{folder.resolve().name} {weights.fingerprint}",
    )
