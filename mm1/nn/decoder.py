"""Decoder-only language model: RMSNorm, SwiGLU, RoPE, grouped queries; Llama's shape,
options of Qwen and OLMo2."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mm1.batch import IGNORE, NO_SOURCE, PackedBatch
from mm1.nn.attention import Attention, AttentionContext, PackedAttention, QKNorm
from mm1.nn.block import Block, NormPlacement, SwiGLU
from mm1.nn.cache import KVCache
from mm1.nn.experts import MoE, MoEBlock, Routing, router_losses
from mm1.nn.linear import Embedding, Linear, num_weights
from mm1.nn.losses import NextTokenLoss, next_token_loss
from mm1.nn.model import Losses, MeanMetric, Model, Module
from mm1.nn.position import Llama3Scaling, rotary_embedding


class Decoder(Module):
    """Embeddings -> hidden states; the vocabulary's two ends, `embed` and `head`, are
    its own."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        depth: int = 24
        dim: int = 2048
        num_heads: int = 16
        num_kv_heads: int | None = None
        """Key and value heads; None: as many as query heads."""
        head_dim: int | None = None
        """None: dim / num_heads."""
        hidden_dim: int | None = None
        """Width inside the feed-forward; None: 8/3 dim, rounded up to a multiple of
        256."""
        rope_base: float = 1e4
        llama3_scaling: Llama3Scaling | None = None
        """How RoPE is slowed down for long texts in Llama 3.1 and later."""
        qk_norm: QKNorm | None = None
        """A norm of queries and keys: of each head ("head", Qwen3) or over all heads
        ("full", OLMo2)."""
        qkv_bias: bool = False
        """Biases of queries, keys and values (Qwen2)."""
        norm_placement: NormPlacement = "pre"
        """Norms of what attention and feed-forward read ("pre"), or of what they give
        ("post", OLMo2)."""
        tied: bool = True
        """Is the output map the table of embeddings?"""
        norm_eps: float = 1e-5
        experts: MoE.Config | None = None
        """Some blocks' feed-forward as a mixture of experts; None: all are dense."""

        def build(self, *, vocab_size: int) -> "Decoder":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.vocab_size = vocab_size
        self.head_dim = config.head_dim or config.dim // config.num_heads
        self.embedding = Embedding(vocab_size, config.dim)
        self.blocks = nn.ModuleList(self._block(layer) for layer in range(config.depth))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.output = None if config.tied else Linear(config.dim, vocab_size)

    def _block(self, layer: int) -> Block:
        c = self.config
        gain = (2 * self.config.depth) ** -0.5
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
            experts = c.experts.build(dim=c.dim, hidden_dim=hidden_dim, gain=gain)
            return MoEBlock(attention, experts, norm, norm_placement=c.norm_placement)
        return Block(
            attention,
            SwiGLU(c.dim, hidden_dim, gain=gain),
            norm,
            norm_placement=c.norm_placement,
        )

    @property
    def head(self) -> Float[Tensor, "V D"]:
        return self.embedding.weight if self.output is None else self.output.weight

    def embed(self, tokens: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        return self.embedding(tokens)

    def forward(
        self,
        x: Float[Tensor, "T D"],
        positions: Int[Tensor, " T"],
        context: AttentionContext,
    ) -> Float[Tensor, "T D"]:
        """Hidden states after the final norm: `hidden @ head.T` are the logits."""
        return self.routed(x, positions, context)[0]

    def routed(
        self,
        x: Float[Tensor, "T D"],
        positions: Int[Tensor, " T"],
        context: AttentionContext,
        valid: Bool[Tensor, " T"] | None = None,
    ) -> tuple[Float[Tensor, "T D"], dict[int, Routing]]:
        """What `forward` gives, and by block what the routers of sparse blocks did;
        `valid` is false for padding."""
        angles = rotary_embedding(
            positions,
            self.head_dim,
            base=self.config.rope_base,
            dtype=x.dtype,
            llama3_scaling=self.config.llama3_scaling,
        )
        routings: dict[int, Routing] = {}
        for layer, block in enumerate(self.blocks):
            if isinstance(block, MoEBlock):
                x, routings[layer] = block(x, context.for_layer(layer), angles, valid)
            else:
                x = block(x, context.for_layer(layer), angles)
        return self.norm(x), routings

    def flops(self, *, num_tokens: int, num_pairs: int, num_targets: int) -> int:
        """Operations of forward and backward.

        6 for each weight and token, of the output map for each target and of the
        experts for those that a token goes to; 12 for each query-key pair and channel
        of a block's attention.
        """
        attention = (
            12 * num_pairs * self.config.num_heads * self.head_dim * self.config.depth
        )
        active = num_weights(self.blocks) + sum(
            m.num_active for m in self.modules() if isinstance(m, MoE)
        )
        return 6 * num_tokens * active + attention + 6 * num_targets * self.head.numel()


class LanguageModel(Model):
    """Text-only pre-training, and everything that a language model does with tokens."""

    @dataclass(kw_only=True, slots=True)
    class Config(Model.Config):
        decoder: Decoder.Config = field(default_factory=Decoder.Config)
        z_loss: float = 0.0
        """Weight of log-sum-exp squared; MM1 uses 1e-4 for 30B."""

        def build(self, *, vocab_size: int) -> "LanguageModel":
            return self.make(vocab_size=vocab_size)

    def __init__(self, config: Config, *, vocab_size: int) -> None:
        super().__init__()
        self.z_loss = config.z_loss
        self.decoder = config.decoder.build(vocab_size=vocab_size)

    def parts(self) -> dict[str, nn.Module]:
        return {"decoder": self.decoder}

    def units(self) -> Sequence[nn.Module]:
        return list(self.decoder.blocks)

    def flops(self, batch: PackedBatch) -> dict[str, int]:
        sizes = {"num_pairs": batch.num_pairs, "num_targets": batch.num_targets}
        return {"decoder": self.decoder.flops(num_tokens=len(batch.tokens), **sizes)}

    def inputs(self, batch: PackedBatch) -> Float[Tensor, "T D"]:
        """What the decoder reads: here the tokens' embeddings."""
        return self.decoder.embed(batch.tokens)

    def forward(self, batch: PackedBatch) -> Losses:
        """Next-token losses of the targets, in all and by source; every source is
        named, even without a target here."""
        learnt = _learnt(batch)
        loss, routings = self._next_token(batch, learnt)
        count = torch.ones_like(loss.nll)
        means = {
            "loss": MeanMetric(loss.nll.sum(), count.sum()),
            "accuracy": MeanMetric(loss.hit.float().sum(), count.sum()),
        }
        if self.z_loss:
            means["z_loss"] = MeanMetric(
                self.z_loss * loss.log_sum_exp.square().sum(), count.sum()
            )
        sources = batch.sources[learnt]
        for number, name in enumerate(
            batch.source_names
        ):  # no scattered sums: the same to the bit in every run
            own = (sources == number).float()
            means[f"loss/{name}"] = MeanMetric((own * loss.nll).sum(), own.sum())
        objective = loss.objective
        experts = self.decoder.config.experts
        if experts is not None and routings:
            added, figures = router_losses(experts, routings, batch.num_targets)
            objective = objective + added
            means = means | figures
        return Losses(objective, means)

    def log_probs(
        self, batch: PackedBatch
    ) -> tuple[Float[Tensor, " T"], Bool[Tensor, " T"]]:
        """Log-likelihood of each target in nats, and is it the most likely token; 0 and
        true where there is none."""
        learnt = _learnt(batch)
        found = self._next_token(batch, learnt)[0]
        nats = found.nll.new_zeros(len(batch.tokens)).index_copy(0, learnt, -found.nll)
        return nats, torch.ones_like(nats, dtype=torch.bool).index_copy(
            0, learnt, found.hit
        )

    def new_cache(
        self, num_prompts: int, max_length: int, prefix: KVCache | None = None
    ) -> KVCache:
        """Memory for generation: `max_length` counts a prompt and what is generated
        after it, without the prefix."""
        return KVCache(num_prompts, max_length, prefix)

    def prefill(self, batch: PackedBatch, cache: KVCache) -> Float[Tensor, "B V"]:
        """Reads the prompts, the first B documents of the batch, into the cache; logits
        of what follows each."""
        context = cache.prefill(batch.cu_seqlens, batch.max_seqlen)
        hidden = self.decoder(
            self.inputs(batch), batch.positions + cache.offset, context
        )
        last = batch.cu_seqlens[1 : cache.num_prompts + 1] - 1
        return (hidden[last] @ self.decoder.head.T).float()

    def step(self, tokens: Int[Tensor, " B"], cache: KVCache) -> Float[Tensor, "B V"]:
        """Reads one more token of every prompt; logits of what follows it."""
        hidden = self.decoder(
            self.decoder.embed(tokens), cache.lengths + cache.offset, cache.step()
        )
        cache.advance()
        return (hidden @ self.decoder.head.T).float()

    def _next_token(
        self, batch: PackedBatch, learnt: Int[Tensor, " n"]
    ) -> tuple[NextTokenLoss, dict[int, Routing]]:
        valid = batch.sources != NO_SOURCE if batch.num_padding else None
        context = PackedAttention(batch.cu_seqlens, batch.max_seqlen)
        hidden, routings = self.decoder.routed(
            self.inputs(batch), batch.positions, context, valid
        )
        hidden = hidden.index_select(0, learnt)
        targets = batch.targets[learnt]
        return (
            next_token_loss(hidden, self.decoder.head, targets, z_loss=self.z_loss),
            routings,
        )


def _learnt(batch: PackedBatch) -> Int[Tensor, " n"]:
    """Where there is a target, in order. The batch knows how many there are, so the
    device is not waited for."""
    return torch.argsort((batch.targets == IGNORE).byte(), stable=True)[
        : batch.num_targets
    ]
