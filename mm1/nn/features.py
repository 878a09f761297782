"""An image encoder alone, such as an imported one: to start from, to probe or to
export."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mm1.config import UserError
from mm1.nn.model import Losses, Model
from mm1.nn.vit import ViT


class NotTrainable(UserError, TypeError):
    """A model without a loss was to be trained."""

    def __init__(self) -> None:
        super().__init__(
            "an encoder alone has no loss: start a model that has one from it, "
            "as in `mm1 train clip_small init.encoder=RUN --out DIR`"
        )


class Features(Model):
    """A ViT without a loss, so `mm1 train` cannot train it."""

    @dataclass(kw_only=True, slots=True)
    class Config(Model.Config):
        encoder: ViT.Config = field(default_factory=ViT.Config)

        def build(self, *, vocab_size: int = 0) -> "Features":
            """`vocab_size` is ignored: there is no text."""
            return self.make()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.encoder = config.encoder.build()
        self.image_input = self.encoder.image_input

    def parts(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder}

    def units(self) -> Sequence[nn.Module]:
        return list(self.encoder.blocks)

    def forward(self, batch: Any) -> Losses:
        """Raises NotTrainable."""
        raise NotTrainable

    def encode_patches(
        self, images: UInt8[Tensor, "N 3 H W"]
    ) -> Float[Tensor, "N P E"]:
        """One feature per patch, row by row."""
        return self.encoder(images)

    def flops(self, batch: Any) -> dict[str, int]:
        """Forward and backward, as for every model, though nothing is trained here."""
        return {"encoder": len(batch.images) * self.encoder.flops()}
