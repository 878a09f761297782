"""Linear maps and embeddings with our initialisation instead of torch's."""

from torch import nn


class Linear(nn.Linear):
    """Weights start normal with variance gain^2 / fan-in, biases at zero, so outputs
    have `gain` times the scale of the inputs.

    Maps that write to a residual stream with n writers take gain = n**-0.5, which keeps
    its variance of order one.
    """

    independent_rows = ("weight",)

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        *,
        bias: bool = False,
        gain: float = 1.0,
        fused: tuple[int, ...] = (),
    ) -> None:
        """`fused` are the output widths of the maps that this is at once; empty: it is
        one map."""
        self.gain = gain
        self.fused = fused
        super().__init__(input_dim, output_dim, bias=bias)

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:  # nothing to fill, which takes torch 2 ms
            nn.init.normal_(self.weight, std=self.gain * self.in_features**-0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """Vectors start with about unit length, so that logits of tied embeddings start
    with unit variance."""

    independent_rows = ("weight",)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)


def num_weights(module: nn.Module) -> int:
    """The number of weights in linear maps: a token costs 2 operations per weight
    forward, 4 backward."""
    return sum(
        m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear)
    )
