"""What the training loop needs of a model: a batch goes in, losses come out.

Parallelism, activation checkpointing and compilation reach a model only through
`units()`: the modules, in the order of execution, that are sharded, checkpointed or
compiled one by one. Freezing, loading and timing use `parts()`.
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

    A module with parameters of its own initialises them in `reset_parameters`, as
    torch's layers do. `mm1.nn.initialization` calls it to set one of them at a time.
    """

    independent_rows: tuple[str, ...] = ()
    """Parameters whose rows `reset_parameters` draws independently of each other and of
    their number: a rank need not draw all of them to have its own."""

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert another such module's state dict to this one's shapes and names.

        The other may have another patch grid, or a dense feed-forward where this one
        has experts.
        """
        return state


def adapt(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fit another such module's state dict to this one: positions are interpolated,
    dense feed-forwards become experts."""
    adapted = dict(state)
    for path, child in module.named_modules():
        if isinstance(child, Module):
            prefix = f"{path}." if path else ""
            own = {
                key.removeprefix(prefix): value
                for key, value in adapted.items()
                if key.startswith(prefix)
            }
            changed = child.adapt_state(own)
            for name in own.keys() - changed.keys():
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
    """A metric `total / count`; both are summed over ranks and micro-batches before the
    division."""

    total: Float[Tensor, ""]
    count: Float[Tensor, ""]


@dataclass(frozen=True, eq=False, slots=True)
class Losses:
    """The losses of one micro-batch.

    `objective` is a sum over the micro-batch's targets, not a mean: the loop divides it
    by the number of targets of all micro-batches and ranks, so every target has the
    same weight.
    """

    objective: Float[Tensor, ""]
    means: dict[str, MeanMetric] = field(default_factory=dict)
    """Detached metrics by name: `loss`, `loss/captions`, `accuracy`, `z_loss` ..."""


def _losses(tensors: Iterable[Any], means: Any) -> Losses:
    (objective,) = tensors
    return Losses(objective, means)


# FSDP2 hooks the backward pass of the tensors that `forward` returns; torch 2.11 finds
# them in a dataclass only if it is a pytree node.
register_pytree_node(
    Losses, lambda losses: ([losses.objective], losses.means), _losses
)


class Model(Module):
    """Maps a batch to `Losses`; the same loop trains every stage."""

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
        """The parts that can be frozen, or initialised from another run's part of the
        same name.

        The name is that of the attribute, so it prefixes the part's weights in the
        state dict.
        """
        raise NotImplementedError

    def num_params(self) -> dict[str, int]:
        """Of each part."""
        return {
            name: sum(p.numel() for p in part.parameters())
            for name, part in self.parts().items()
        }

    def units(self) -> Sequence[nn.Module]:
        """Modules to shard, checkpoint and compile, in the order of execution."""
        raise NotImplementedError

    def functions(self) -> Sequence[nn.Module]:
        """Modules without weights that are compiled beside the units."""
        return []

    def flops(self, batch: Any) -> dict[str, int]:
        """Floating-point operations of forward and backward for this batch, by part,
        without recomputation."""
        raise NotImplementedError
