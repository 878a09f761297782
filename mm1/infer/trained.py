"""A trained model as it is asked: with the renderer it was trained with, on its
device."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

from mm1 import dist
from mm1.data.render import Renderer
from mm1.nn.model import Model

Asked = TypeVar("Asked", bound="Trained")
Item = TypeVar("Item")


class Trained:
    """Who asks makes of it what it needs: `Predictor.of(trained)` writes,
    `Encoder.of(trained)` looks."""

    def __init__(self, model: Model, renderer: Renderer, device: torch.device) -> None:
        self.model = model
        self.renderer = renderer
        self.device = device

    @classmethod
    def of(cls: type[Asked], trained: "Trained") -> Asked:
        return (
            trained
            if isinstance(trained, cls)
            else cls(trained.model, trained.renderer, trained.device)
        )


def cut(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Batches of `size`, the last one smaller."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def in_step(batches: Sequence[list[Item]]) -> Iterator[list[Item]]:
    """This rank's batches, then empty ones until all ranks are through: a sharded model
    needs all of them."""
    waiting = deque(batches)
    while not dist.all_true(not waiting):
        yield waiting.popleft() if waiting else []
