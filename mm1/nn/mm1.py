"""MM1: image encoder -> connector -> decoder (McKinzie et al. 2024, arXiv:2403.09611,
figure 3)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mm1.batch import PackedBatch
from mm1.nn.connectors import Connector
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import LanguageModel
from mm1.nn.vit import ViT


class MM1(LanguageModel):
    """A language model whose image tokens are replaced by the features of images.

    tokens   <i> <i> <i> <i> a cat <end>           slots = [[0, 1, 2, 3]]
              ^   ^   ^   ^
             connector(encoder(image))
    """

    @dataclass(kw_only=True, slots=True)
    class Config(LanguageModel.Config):
        encoder: ViT.Config = field(default_factory=ViT.Config)
        connector: Connector.Config = field(default_factory=CAbstractor.Config)

        def build(self, *, vocab_size: int) -> "MM1":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.encoder = config.encoder.build()
        self.connector = config.connector.build(
            grid=self.encoder.grid,
            input_dim=self.encoder.dim,
            output_dim=self.decoder.dim,
        )
        self.image_input = self.encoder.image_input
        self.tokens_per_image = self.connector.num_tokens

    def parts(self) -> dict[str, nn.Module]:
        return {
            "encoder": self.encoder,
            "connector": self.connector,
            "decoder": self.decoder,
        }

    def units(self) -> Sequence[nn.Module]:
        return [*self.encoder.blocks, self.connector, *self.decoder.blocks]

    def flops(self, batch: PackedBatch) -> dict[str, int]:
        """Of images with slots: blank ones are no work."""
        num_images = len(batch.slots)
        of_images = {
            part: num_images * flops
            for part, flops in self._flops_per_image.items()
        }
        return of_images | super().flops(batch)

    def unit_flops(self) -> dict[str, int]:
        return super().unit_flops() | {
            "image": sum(self._flops_per_image.values())
        }

    @cached_property
    def _flops_per_image(self) -> dict[str, int]:
        return {
            "encoder": self.encoder.flops(),
            "connector": self.connector.flops(),
        }

    def inputs(self, batch: PackedBatch) -> Float[Tensor, "T D"]:
        """The tokens' embeddings, with those of the images in their slots.

        A batch without images carries a blank one, which also goes through encoder and
        connector with a gradient of exactly zero: every rank takes part in every
        collective.

        Raises:
            ValueError: the batch has slots for more images than it has, or of another
                number of tokens than the connector's.
        """
        text = super().inputs(batch)
        features = self.connector(self.encoder(batch.images))
        num_slots, slot_tokens = batch.slots.shape
        num_images, num_tokens, _ = features.shape
        if num_slots == 0:
            return text + 0 * features.sum().to(text.dtype)
        if slot_tokens != num_tokens:
            raise ValueError(
                f"the batch has {slot_tokens} image tokens per image, the connector"
                f" gives {num_tokens}"
            )
        if num_slots > num_images:
            raise ValueError(
                f"the batch has image tokens for {num_slots} images, but features of"
                f" {num_images}"
            )
        return torch.index_copy(
            text,
            0,
            batch.slots.flatten(),
            features[:num_slots].flatten(0, 1).to(text.dtype),
        )
