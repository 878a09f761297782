"""Decoder-only language model of Llama's shape (RMSNorm, SwiGLU, RoPE, grouped-query
attention) with options of Qwen and OLMo2."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mm1.batch import IGNORE, NO_SOURCE, PackedBatch
from mm1.config import ConfigError
from mm1.nn.attention import (
    Attention,
    AttentionContext,
    PackedAttention,
    QKNorm,
    dim_of_heads,
)
from mm1.nn.block import Block, NormPlacement, SwiGLU
from mm1.nn.cache import KVCache
from mm1.nn.experts import MoE, MoEBlock, Routing, router_losses
from mm1.nn.linear import Embedding, Linear, num_weights
from mm1.nn.losses import ChunkLoss, NextTokenLoss, next_token_loss
from mm1.nn.model import Losses, MeanMetric, Model, Module
from mm1.nn.position import Llama3Scaling, rotary_embedding
from mm1.ranges import NonNegativeFloat, PositiveFloat, PositiveInt


class Decoder(Module):
    """Maps embeddings to hidden states; also holds the token embeddings (`embed`) and
    the output map (`head`)."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        depth: PositiveInt = 24
        """Blocks."""
        dim: PositiveInt = 2048
        """Width of a token."""
        num_heads: PositiveInt = 16
        """Of the queries; keys and values: `num_kv_heads`."""
        num_kv_heads: PositiveInt | None = None
        """None: as many as query heads."""
        head_dim: PositiveInt | None = None
        """None: dim / num_heads."""
        hidden_dim: PositiveInt | None = None
        """Width inside the feed-forward; None: 8/3 dim, rounded up to a multiple of
        256."""
        rope_base: PositiveFloat = 1e4
        """Base of the rotary positions' wavelengths."""
        llama3_scaling: Llama3Scaling | None = None
        """RoPE scaling of Llama 3.1 and later."""
        qk_norm: QKNorm | None = None
        """RMSNorm of queries and keys: per head ("head", Qwen3) or over all heads
        ("full", OLMo2)."""
        qkv_bias: bool = False
        """Biases in queries, keys and values (Qwen2)."""
        norm_placement: NormPlacement = "pre"
        """Norms of the inputs of attention and feed-forward ("pre") or of their outputs
        ("post", OLMo2)."""
        tied: bool = True
        """The output map is the table of token embeddings."""
        norm_eps: NonNegativeFloat = 1e-5
        """Added to the mean square in RMSNorm."""
        experts: MoE.Config | None = None
        """The feed-forward of some blocks is a mixture of experts; None: all are
        dense."""

        def build(self, *, vocab_size: int) -> "Decoder":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.vocab_size = vocab_size
        self.head_dim = config.head_dim or dim_of_heads(
            config.dim, config.num_heads
        )
        if self.head_dim % 2:
            raise ConfigError(
                f"heads are {self.head_dim} wide, but rotary positions need pairs of"
                " channels: change dim, num_heads or head_dim"
            )
        self.embedding = Embedding(vocab_size, config.dim)
        self.blocks = nn.ModuleList(
            self._block(layer) for layer in range(config.depth)
        )
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.output = None if config.tied else Linear(config.dim, vocab_size)

    def _block(self, layer: int) -> Block | MoEBlock:
        c = self.config
        gain = (2 * c.depth) ** -0.5
        attention = Attention(
            c.dim,
            num_heads=c.num_heads,
            num_kv_heads=c.num_kv_heads,
            head_dim=self.head_dim,
            qkv_bias=c.qkv_bias,
            qk_norm=c.qk_norm,
            norm_eps=c.norm_eps,
            gain=gain,
        )
        hidden_dim = c.hidden_dim or -(-8 * c.dim // (3 * 256)) * 256
        norm = partial(nn.RMSNorm, c.dim, eps=c.norm_eps)
        if c.experts is not None and (layer + 1) % c.experts.every == 0:
            experts = c.experts.build(
                dim=c.dim, hidden_dim=hidden_dim, gain=gain
            )
            return MoEBlock(
                attention, experts, norm, norm_placement=c.norm_placement
            )
        return Block(
            attention,
            SwiGLU(c.dim, hidden_dim, gain=gain),
            norm,
            norm_placement=c.norm_placement,
        )

    @property
    def head(self) -> Float[Tensor, "V D"]:
        return (
            self.embedding.weight if self.output is None else self.output.weight
        )

    def embed(self, tokens: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        return self.embedding(tokens)

    def forward(
        self,
        x: Float[Tensor, "T D"],
        positions: Int[Tensor, " T"],
        context: AttentionContext,
    ) -> Float[Tensor, "T D"]:
        """Hidden states after the final norm; logits are `hidden @ head.T`."""
        return self.forward_with_routing(x, positions, context)[0]

    def forward_with_routing(
        self,
        x: Float[Tensor, "T D"],
        positions: Int[Tensor, " T"],
        context: AttentionContext,
        valid: Bool[Tensor, " T"] | None = None,
    ) -> tuple[Float[Tensor, "T D"], dict[int, Routing]]:
        """Hidden states, and the `Routing` of each MoE block by its number; `valid` is
        false for padding."""
        rotary = rotary_embedding(
            positions,
            self.head_dim,
            base=self.config.rope_base,
            dtype=x.dtype,
            llama3_scaling=self.config.llama3_scaling,
        )
        routings: dict[int, Routing] = {}
        for layer, block in enumerate(self.blocks):
            if isinstance(block, MoEBlock):
                x, routings[layer] = block(
                    x, context.for_layer(layer), rotary, valid
                )
            else:
                x = block(x, context.for_layer(layer), rotary)
        return self.norm(x), routings

    @cached_property
    def _active_weights(self) -> int:
        """Weights of the blocks that one token uses."""
        return num_weights(self.blocks) + sum(
            m.num_active for m in self.modules() if isinstance(m, MoE)
        )

    def flops(
        self, *, num_tokens: int, num_pairs: int, num_targets: int
    ) -> int:
        """Floating-point operations of forward and backward.

        6 per weight and token (of the output map: per target; of experts: only those a
        token uses), 12 per query-key pair and channel of each attention.
        """
        attention = (
            12
            * num_pairs
            * self.config.num_heads
            * self.head_dim
            * self.config.depth
        )
        return (
            6 * num_tokens * self._active_weights
            + attention
            + 6 * num_targets * self.head.numel()
        )


class LanguageModel(Model):
    """A decoder with its next-token loss, scoring and generation."""

    @dataclass(kw_only=True, slots=True)
    class Config(Model.Config):
        decoder: Decoder.Config = field(default_factory=Decoder.Config)
        z_loss: NonNegativeFloat = 0.0
        """Weight of the squared log-sum-exp; MM1 uses 1e-4 for 30B."""

        def build(self, *, vocab_size: int) -> "LanguageModel":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        self.z_loss = config.z_loss
        self.chunk_loss = ChunkLoss()
        self.decoder = config.decoder.build(vocab_size=vocab_size)

    def parts(self) -> dict[str, nn.Module]:
        return {"decoder": self.decoder}

    def units(self) -> Sequence[nn.Module]:
        return list(self.decoder.blocks)

    def functions(self) -> Sequence[nn.Module]:
        return [self.chunk_loss]

    def flops(self, batch: PackedBatch) -> dict[str, int]:
        sizes = {"num_pairs": batch.num_pairs, "num_targets": batch.num_targets}
        return {
            "decoder": self.decoder.flops(num_tokens=len(batch.tokens), **sizes)
        }

    def unit_flops(self) -> dict[str, int]:
        """Floating-point operations of forward and backward for one more text token
        (which is a target), image, and pair of tokens of a document."""
        flops = partial(self.decoder.flops, num_tokens=0)
        return {
            "pair": flops(num_pairs=1, num_targets=0),
            "text_token": flops(num_pairs=0, num_targets=1),
            "image": 0,
        }

    def inputs(self, batch: PackedBatch) -> Float[Tensor, "T D"]:
        """What the decoder reads; here the embeddings of the tokens."""
        return self.decoder.embed(batch.tokens)

    def forward(self, batch: PackedBatch) -> Losses:
        """Next-token losses over all targets and by source, with every source named
        even if it has no target here."""
        loss, targets, routings = self._next_token(batch)
        count = torch.ones_like(loss.nll)
        means = {
            "loss": MeanMetric(loss.nll.sum(), count.sum()),
            "accuracy": MeanMetric(loss.hit.float().sum(), count.sum()),
        }
        if self.z_loss:
            means["z_loss"] = MeanMetric(
                self.z_loss * loss.log_sum_exp.square().sum(), count.sum()
            )
        sources = batch.sources[targets]
        # Masked sums instead of a scatter, so that runs repeat bit for bit.
        for number, name in enumerate(batch.source_names):
            own = (sources == number).float()
            means[f"loss/{name}"] = MeanMetric(
                (own * loss.nll).sum(), own.sum()
            )
        objective = loss.objective
        experts = self.decoder.config.experts
        if experts is not None and routings:
            router_loss, router_means = router_losses(
                experts, routings, batch.num_targets
            )
            objective = objective + router_loss
            means = means | router_means
        return Losses(objective, means)

    def log_probs(
        self, batch: PackedBatch
    ) -> tuple[Float[Tensor, " T"], Bool[Tensor, " T"]]:
        """The log-likelihood of each target in nats and whether it is the most likely
        token; 0 and true where there is no target."""
        loss, targets, _ = self._next_token(batch)
        nats = loss.nll.new_zeros(len(batch.tokens)).index_copy(
            0, targets, -loss.nll
        )
        return nats, torch.ones_like(nats, dtype=torch.bool).index_copy(
            0, targets, loss.hit
        )

    def new_cache(
        self,
        num_prompts: int,
        max_length: int,
        prefix: KVCache | None = None,
        *,
        static: bool = False,
    ) -> KVCache:
        """A cache for generation; `max_length` counts prompt and generated tokens, but
        not the prefix."""
        return KVCache(num_prompts, max_length, prefix, static=static)

    def prefill(
        self, batch: PackedBatch, cache: KVCache
    ) -> Float[Tensor, "B V"]:
        """Read the prompts, the first B documents of the batch, into the cache; returns
        the logits of the token after each."""
        context = cache.prefill(batch.cu_seqlens, batch.max_seqlen)
        hidden = self.decoder(
            self.inputs(batch), batch.positions + cache.offset, context
        )
        last = batch.cu_seqlens[1 : cache.num_prompts + 1] - 1
        return self._logits(hidden[last])

    def step(
        self, tokens: Int[Tensor, " B"], cache: KVCache
    ) -> Float[Tensor, "B V"]:
        """Read one more token of every prompt; returns the logits of the next."""
        hidden = self.decoder(
            self.decoder.embed(tokens),
            cache.lengths + cache.offset,
            cache.step(),
        )
        cache.advance()
        return self._logits(hidden)

    def _logits(self, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        vocabulary = self.chunk_loss.vocabulary
        own = hidden @ vocabulary.own_rows(self.decoder.head).T
        return vocabulary.gather(own).float()

    def _next_token(
        self, batch: PackedBatch
    ) -> tuple[NextTokenLoss, Int[Tensor, " n"], dict[int, Routing]]:
        """The losses of the targets, their positions and what the routers did."""
        # Given with and without padding, so that compiled blocks see one case.
        has_experts = self.decoder.config.experts is not None
        valid = batch.sources != NO_SOURCE if has_experts else None
        context = PackedAttention(batch.cu_seqlens, batch.max_seqlen)
        hidden, routings = self.decoder.forward_with_routing(
            self.inputs(batch), batch.positions, context, valid
        )
        # The batch knows the number of targets, so this needs no device sync.
        order = torch.argsort((batch.targets == IGNORE).byte(), stable=True)
        positions = order[: batch.num_targets]
        loss = next_token_loss(
            hidden.index_select(0, positions),
            self.decoder.head,
            batch.targets[positions],
            z_loss=self.z_loss,
            chunk_loss=self.chunk_loss,
        )
        return loss, positions, routings
