"""How a reference is recorded: weights and pictures at random from fixed seeds, all in
one safetensors file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

FOLDER = Path(__file__).parent / "references"
VERSIONS = {"torch": torch.__version__}


def write(
    name: str,
    *,
    about: Mapping[str, Any],
    inputs: dict[str, Tensor],
    outputs: dict[str, Tensor],
    state: dict[str, Tensor],
) -> None:
    groups = {"state": state, "input": inputs, "output": outputs}
    tensors = {
        f"{group}.{k}": v.detach().contiguous().clone()
        for group, ts in groups.items()
        for k, v in ts.items()
    }
    path = FOLDER / f"{name}.safetensors"
    # One key: safetensors writes several in an order of its own at each run, and the
    # file should be the same each time.
    save_file(
        tensors, path, {"facts": json.dumps({**about, "versions": VERSIONS})}
    )
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def randomise(module: nn.Module, seed: int) -> None:
    """Every parameter at random, biases and norms too: an untouched 0 or 1 would hide a
    mistake."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=draw)
        if parameter.ndim > 1:
            parameter.data = (
                noise * (parameter.numel() / len(parameter)) ** -0.5
            )
        else:
            parameter.data += 0.2 * noise


def pictures(height: int, width: int, *, seed: int) -> Tensor:
    return torch.randint(
        256,
        (2, 3, height, width),
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.uint8,
    )


def normalised(
    images: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    mean_ = torch.tensor(mean)[:, None, None]
    std_ = torch.tensor(std)[:, None, None]
    return (images.float() / 255 - mean_) / std_
