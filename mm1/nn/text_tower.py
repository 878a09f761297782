"""The text tower of contrastive pre-training, as in OpenAI's CLIP, open_clip and
SigLIP."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.nn.attention import Attention, FullAttention
from mm1.nn.block import MLP, Activation, Block
from mm1.nn.linear import Embedding, num_weights
from mm1.nn.model import Module
from mm1.ranges import NonNegativeFloat, PositiveFloat, PositiveInt


class TextTower(Module):
    """A transformer over captions whose feature is taken at one token.

                    CLIP, open_clip       SigLIP
    caption         a cat <end> . . .     a cat <end> <pad> <pad> <pad>
    feature of      the end token         the last token of the full length
    attention       causal                bidirectional, padding included
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        vocab_size: PositiveInt | None = None
        """Rows of the embedding; None: as many as the tokenizer has tokens."""
        max_length: PositiveInt = 77
        """Tokens of a text that are read; the rest is cut off."""
        depth: PositiveInt = 12
        """Blocks."""
        dim: PositiveInt = 768
        """Width of a token."""
        num_heads: PositiveInt = 12
        """Of the attention."""
        mlp_ratio: PositiveFloat = 4.0
        """Width of the feed-forward layers over `dim`."""
        activation: Activation = "gelu"
        """Of the feed-forward layers."""
        norm_eps: NonNegativeFloat = 1e-5
        """Added to the variance in the norms."""
        causal: bool = True
        """Does a token see only those before it?"""
        read: Literal["end", "last"] = "end"
        """The token whose feature is taken: each caption's end token, or the last token
        of captions padded to `max_length`."""
        output_bias: bool = False
        """A bias in the projection to the shared space."""

        def build(self, *, vocab_size: int) -> "TextTower":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        c = self.config = config
        if c.vocab_size is not None and c.vocab_size < vocab_size:
            raise ConfigError(
                f"text.vocab_size={c.vocab_size} is less than the tokenizer's"
                f" {vocab_size} tokens"
            )
        self.dim = c.dim
        self.embedding = Embedding(c.vocab_size or vocab_size, c.dim)
        self.position = nn.Parameter(torch.empty(c.max_length, c.dim))
        self.blocks = nn.ModuleList(self._block() for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.dim, eps=c.norm_eps)
        self.reset_parameters()

    def _block(self) -> Block:
        c = self.config
        hidden_dim = round(c.mlp_ratio * c.dim)
        gain = (2 * c.depth) ** -0.5
        return Block(
            Attention(c.dim, num_heads=c.num_heads, bias=True, gain=gain),
            MLP(c.dim, hidden_dim, activation=c.activation, gain=gain),
            lambda: nn.LayerNorm(c.dim, eps=c.norm_eps),
        )

    def reset_parameters(self) -> None:
        nn.init.normal_(self.position, std=0.01)

    @property
    def sees_padding(self) -> bool:
        """Whether features depend on padding, so that every caption needs the full
        length."""
        return self.config.read == "last" or not self.config.causal

    def forward(
        self, tokens: Int[Tensor, "B L"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B E"]:
        """One normed feature per caption.

        Raises:
            ValueError: captions are longer than `max_length`, or shorter although the
                tower sees padding.
        """
        num_captions, length = tokens.shape
        limit = self.config.max_length
        if length > limit or (self.sees_padding and length < limit):
            wanted = "exactly" if self.sees_padding else "at most"
            raise ValueError(
                f"the text tower reads captions of {wanted} {limit} tokens, got"
                f" {length}; set loader.context"
            )
        x = self.embedding(tokens) + self.position[:length]
        context = FullAttention(causal=self.config.causal)
        for block in self.blocks:
            x = block(x, context)
        read = (
            lengths - 1
            if self.config.read == "end"
            else torch.full_like(lengths, length - 1)
        )
        return self.norm(x[torch.arange(num_captions, device=x.device), read])

    @cached_property
    def _num_weights(self) -> int:
        return num_weights(self.blocks)

    def flops(self, num_captions: int, length: int) -> int:
        """Floating-point operations of forward and backward, without the masked half of
        causal attention."""
        pairs = length * (length + 1) // 2 if self.config.causal else length**2
        attention = 12 * num_captions * pairs * self.dim * len(self.blocks)
        return 6 * num_captions * length * self._num_weights + attention
