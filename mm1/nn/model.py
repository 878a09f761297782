"""The role of a model in the loop: a batch goes in, losses come out.

Parallelism, recomputation and compilation reach a model only through `units()`: the
modules, in the order of execution, that are sharded, recomputed or compiled one by one.
Freezing, loading and timing reach it through `parts()`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import register_pytree_node

from mm1.config import Configurable


class Module(nn.Module, Configurable):
    """An `nn.Module` with a nested `Config`.

    A module with tensors of its own sets them in `reset_parameters`, as torch's layers
    do.
    """

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of another such module, by their names below it, as they are for this
        one.

        The other one may have another patch grid, or a dense feed-forward where this
        one has experts.
        """
        return state


def adapt(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Another such module's weights made to fit: positions are interpolated, dense
    feed-forwards become experts."""
    adapted = dict(state)
    for path, child in module.named_modules():
        if isinstance(child, Module):
            prefix = f"{path}." if path else ""
            below = {
                key.removeprefix(prefix): value
                for key, value in adapted.items()
                if key.startswith(prefix)
            }
            changed = child.adapt_state(below)
            for name in below.keys() - changed.keys():
                del adapted[prefix + name]
            adapted |= {prefix + name: value for name, value in changed.items()}
    return adapted


class ImageInput(NamedTuple):
    """The images an encoder takes: how they must be resized before they reach it."""

    size: tuple[int, int]
    """(height, width) in pixels."""
    resize: Literal["squash", "crop", "pad"]
    """How images of another aspect ratio are fitted (`mm1.data.image_processing`)."""
    interpolation: Literal["bicubic", "bilinear"]
    mean: tuple[float, float, float]
    """Red, green and blue in 0..1, from the encoder's normalisation: the colour around
    padded images."""


@dataclass(frozen=True, eq=False, slots=True)
class MeanMetric:
    """A figure to report: `total / count`, both summed over ranks and micro-batches
    before the division."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]


@dataclass(frozen=True, eq=False, slots=True)
class Losses:
    """What one micro-batch gives.

    `objective` is a sum over this micro-batch's targets, not a mean: the loop divides
    by the number of targets of all micro-batches and ranks, so that every target weighs
    the same wherever it lies.
    """

    objective: Float[Tensor, ""]
    means: dict[str, MeanMetric] = field(default_factory=dict)
    """Detached figures by name: `loss`, `loss/captions`, `accuracy`, `z_loss` ..."""


def _losses(tensors: Iterable[Any], means: Any) -> Losses:
    (objective,) = tensors
    return Losses(objective, means)


# FSDP2 prepares the backward pass of the tensors in what `forward` returns, and torch
# 2.11 looks into no dataclass.
register_pytree_node(Losses, lambda losses: ([losses.objective], losses.means), _losses)


class Model(Module):
    """Forward on a batch gives `Losses`; every stage trains such a model in the same
    loop."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        def build(self, *, vocab_size: int) -> "Model":
            return self.make(vocab_size=vocab_size)

    image_input: ImageInput | None = None
    """The images that its encoder takes; None without an encoder."""
    tokens_per_image: int = 0
    """Tokens that one view takes in the stream; 0 where images are not part of it."""

    def forward(self, batch: Any) -> Losses:
        raise NotImplementedError

    def parts(self) -> dict[str, nn.Module]:
        """The named parts that can be frozen, or started from another run's part of the
        same name.

        A part's name is its attribute's, so its weights are those that begin with it in
        the state dict.
        """
        raise NotImplementedError

    def units(self) -> Sequence[nn.Module]:
        """Modules to shard, recompute and compile, in the order of execution."""
        raise NotImplementedError

    def flops(self, batch: Any) -> dict[str, int]:
        """Floating-point operations of forward and backward for this batch, by part;
        recomputation is not counted."""
        raise NotImplementedError
