"""Initial weights of a model, of which each rank draws what it holds.

The model is built on the meta device, sharded, and given memory by `to_empty`. Then
each parameter is drawn whole and one after another, from a generator seeded by (seed,
path of the parameter), and a rank keeps its own slice. Large ones with independent rows
are drawn in blocks of rows, and only the blocks of which the rank holds a part:

    rank 0   block 0 | block 1        rank 1   block 1 | block 2
             x x x x | x x . .                 . . x x | x x x x

So weights depend neither on the number of ranks nor on how they share the model. They
are drawn on the CPU, since a GPU's generator gives other numbers.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.nn.shards import held_indices, own_part, select

BLOCK = 2**24
"""Numbers drawn at once, 64 MiB in fp32, where rows are independent and not longer than
that. Other blocks are other weights."""


@torch.no_grad()
def initialize_weights(model: nn.Module, seed: int) -> None:
    """Draws all parameters as the modules' `reset_parameters` say, and sets buffers.

    Raises:
        ConfigError: a module has parameters that its `reset_parameters` leaves out.
    """
    done: set[int] = set()
    with torch.random.fork_rng(devices=[]):
        for prefix, module in model.named_modules():
            for name, parameter in module._parameters.items():
                # Tied parameters are drawn where they come first.
                if parameter is not None and id(parameter) not in done:
                    done.add(id(parameter))
                    _draw(module, name, f"{prefix}.{name}", seed)
    initialize_buffers(model)


@torch.no_grad()
def initialize_buffers(model: nn.Module) -> None:
    """Sets buffers alone: those that no checkpoint holds are constants."""
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                path = f"{prefix}.{name}"
                buffer.copy_(_reset(module, name, path, buffer.shape))


def _draw(module: nn.Module, name: str, path: str, seed: int) -> None:
    """Fills what this rank holds of a parameter."""
    parameter = module._parameters[name]
    assert parameter is not None
    own = own_part(parameter)
    if own.numel() == 0:
        return
    rows, *others = held_indices(parameter, getattr(module, "fused", ()))
    num_rows, *shape = parameter.shape
    size = num_rows
    if name in getattr(module, "independent_rows", ()):
        size = max(1, BLOCK // math.prod(shape))
    for block, start in enumerate(range(0, num_rows, size)):
        stop = min(start + size, num_rows)
        first, last = torch.searchsorted(
            rows, torch.tensor([start, stop])
        ).tolist()
        if first < last:
            _seed_generator(f"{seed} {path} {block}")
            drawn = _reset(module, name, path, (stop - start, *shape))
            held = [rows[first:last] - start, *others]
            own[first:last].copy_(select(drawn, held))


def _seed_generator(text: str) -> None:
    seed = hashlib.blake2b(text.encode(), digest_size=8).digest()
    torch.default_generator.manual_seed(int.from_bytes(seed))


def _reset(
    module: nn.Module, name: str, path: str, shape: tuple[int, ...]
) -> Tensor:
    """A parameter or buffer after `reset_parameters`, on the CPU."""
    given = module._parameters.get(name)
    given = module._buffers[name] if given is None else given
    assert given is not None
    reset = getattr(module, "reset_parameters", None)
    if not callable(reset):
        raise ConfigError(
            f"{type(module).__name__} has no reset_parameters that sets {path}"
        )
    whole = torch.empty(shape, dtype=given.dtype, device="cpu")
    if whole.is_floating_point():
        whole.fill_(torch.nan)
    with _only(module, name, whole):
        reset()
    _check_set(whole, module, path)
    return whole


def _check_set(whole: Tensor, module: nn.Module, path: str) -> None:
    if whole.is_floating_point() and whole.sum().isnan():
        raise ConfigError(
            f"{type(module).__name__}.reset_parameters does not set {path}, or to NaN"
        )


@contextmanager
def _only(module: nn.Module, name: str, tensor: Tensor) -> Iterator[None]:
    """The module with one real tensor; its others have a shape and no values."""
    groups: list[dict[str, Any]] = [module._parameters, module._buffers]
    kept = [dict(group) for group in groups]
    for group in groups:
        for key, value in group.items():
            if key == name:
                group[key] = tensor
            elif value is not None:
                group[key] = torch.empty(
                    value.shape, dtype=value.dtype, device="meta"
                )
    try:
        yield
    finally:
        for group, before in zip(groups, kept, strict=True):
            group.update(before)
