"""Mixture of experts: a feed-forward in which a router sends each token to its `top_k`
experts.

Gate and losses are GShard's (arXiv:2006.16668) as in Apple's AXLearn, the router z-loss
ST-MoE's (arXiv:2202.08906). Assignments of tokens to experts are sorted by expert, and
each linear map is one grouped matrix product over all experts.

    token     a b c d          sorted   c0 a1 | a0 d0 | b1 d1 | b0 c1
    choice 0  1 3 0 1          ends         2       4       6       8
    choice 1  0 2 3 2

First choices precede second choices within each expert.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.nn.attention import AttentionContext
from mm1.nn.block import AttentionBlock
from mm1.nn.expert_exchange import ExpertExchange
from mm1.nn.linear import Linear
from mm1.nn.model import MeanMetric, Module
from mm1.nn.position import RotaryEmbedding
from mm1.ranges import NonNegativeFloat, PositiveFloat, PositiveInt


class Routing(NamedTuple):
    """The losses and metrics of one router; only `balance` and `z` have a gradient."""

    balance: Float[Tensor, ""]
    """experts * sum(share of first choices * mean probability): 1 if balanced, the
    number of experts if all tokens go to one."""
    z: Float[Tensor, ""]
    """Mean of the squared log-sum-exp of the router's logits."""
    load: Float[Tensor, " experts"]
    """Assignments per expert, including dropped ones."""
    dropped: Float[Tensor, ""]
    """Assignments beyond the experts' capacity."""
    entropy: Float[Tensor, ""]
    """Entropy of the router's probabilities in nats, summed over the tokens."""
    num_tokens: Float[Tensor, ""]
    """All tokens but padding."""


class Router(Linear):
    """Logits of the experts for each token, in fp32 whatever the precision."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "T D"]
    ) -> Float[Tensor, "T experts"]:
        return F.linear(x.float(), self.weight.float())


class MoE(Module):
    """SwiGLU experts, of which each token uses `top_k`, weighted by the router's
    probabilities.

    Router logits, probabilities and both losses are always fp32. Padding goes to no
    expert and is in no metric. With `top_k` 1 or 2, results repeat bit for bit.
    """

    independent_rows = ("gate_up", "down")

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        num_experts: PositiveInt = 64
        """Of a block that has them."""
        top_k: PositiveInt = 2
        """Experts per token."""
        every: PositiveInt = 2
        """Block i (from 0) has experts if `every` divides i + 1; 2 is every second
        block."""
        hidden_dim: PositiveInt | None = None
        """Width inside an expert; None: that of the dense feed-forward."""
        renormalise: bool = True
        """Normalise the probabilities of a token's experts to a sum of 1."""
        balance_loss: NonNegativeFloat = 0.01
        """Weight of `Routing.balance`, which is summed over the blocks."""
        router_z_loss: NonNegativeFloat = 0.001
        """Weight of the squared log-sum-exp of the router's logits."""
        capacity_factor: PositiveFloat | None = None
        """Capacity of each expert in multiples of tokens / experts; None: nothing is
        dropped.

        In training only: otherwise an answer would depend on the rest of the batch.
        """

        def build(self, *, dim: int, hidden_dim: int, gain: float) -> "MoE":
            """`hidden_dim` is the dense feed-forward's; `gain` scales the
            initialisation of the maps that write to the residual stream."""
            return self.make(
                dim=dim, hidden_dim=self.hidden_dim or hidden_dim, gain=gain
            )

    def __init__(
        self, config: Config, *, dim: int, hidden_dim: int, gain: float
    ) -> None:
        super().__init__()
        if not 1 <= config.top_k <= config.num_experts:
            raise ConfigError(
                f"top_k of {config.top_k} experts out of {config.num_experts}"
            )
        self.config = config
        self.dim = dim
        self.hidden_dim = hidden_dim
        self.gain = gain
        self.router = Router(dim, config.num_experts)
        self.exchange: ExpertExchange | None = None
        """Between ranks that hold different experts; None: all of them are here."""
        self.gate_up = nn.Parameter(
            torch.empty(config.num_experts, 2 * hidden_dim, dim)
        )
        self.down = nn.Parameter(
            torch.empty(config.num_experts, dim, hidden_dim)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.gate_up, std=self.dim**-0.5)
        nn.init.normal_(self.down, std=self.gain * self.hidden_dim**-0.5)

    @property
    def num_active(self) -> int:
        """Weights of the experts that one token uses, without the router."""
        return self.config.top_k * 3 * self.dim * self.hidden_dim

    def forward(
        self, x: Float[Tensor, "T D"], valid: Bool[Tensor, " T"] | None = None
    ) -> tuple[Float[Tensor, "T D"], Routing]:
        """`valid` is false for padding; None: there is no padding."""
        logits = self.router(x)
        probabilities = logits.softmax(-1)
        gates, experts = probabilities.topk(self.config.top_k)
        if self.config.renormalise:
            gates = gates / gates.sum(-1, keepdim=True)
        assignments = self._sort_by_expert(experts, valid)
        out = self._compute(x, assignments).unflatten(
            0, (self.config.top_k, -1)
        )
        mixed = (out * gates.T[..., None]).sum(0).to(x.dtype)
        return mixed, self._routing(
            logits, probabilities, experts[:, 0], valid, assignments
        )

    def _sort_by_expert(
        self, experts: Int[Tensor, "T k"], valid: Bool[Tensor, " T"] | None
    ) -> "_Assignments":
        """Sort by expert; `nowhere`, one past the last expert, sorts to the end."""
        nowhere = self.config.num_experts
        factor = self.config.capacity_factor if self.training else None
        chosen = experts.T.flatten()
        if valid is not None:
            chosen = chosen.masked_fill(
                ~valid.repeat(self.config.top_k), nowhere
            )
        by_expert, order = chosen.sort(stable=True)
        ends = self._ends(by_expert)
        load = ends.diff(prepend=ends.new_zeros(1)).float()
        dropped = load.new_zeros(())
        if factor is not None:
            capacity = max(
                1, int(len(experts) * factor / self.config.num_experts)
            )
            dropped = (load - capacity).clamp(min=0).sum()
            place = (
                torch.arange(len(by_expert), device=ends.device)
                - F.pad(ends, (1, 0))[by_expert]
            )
            by_expert, again = by_expert.masked_fill(
                place >= capacity, nowhere
            ).sort(stable=True)
            order = order[again]
            ends = self._ends(by_expert)
        everywhere = valid is None and factor is None
        return _Assignments(
            order,
            ends,
            None if everywhere else by_expert == nowhere,
            load,
            dropped,
        )

    def _ends(self, by_expert: Int[Tensor, " n"]) -> Int[Tensor, " experts"]:
        every = torch.arange(self.config.num_experts, device=by_expert.device)
        return torch.searchsorted(by_expert, every, right=True, out_int32=True)

    def _compute(
        self, x: Float[Tensor, "T D"], assignments: "_Assignments"
    ) -> Float[Tensor, "n D"]:
        """The outputs of all assignments, first choices before second choices; 0 for
        those that go nowhere."""
        rows = x.index_select(0, assignments.order % len(x))
        # A grouped product leaves rows after the last group unwritten, in backward too.
        if assignments.nowhere is not None:
            rows = rows.masked_fill(assignments.nowhere[:, None], 0)
        out = (
            self._products(rows, assignments.ends)
            if self.exchange is None
            else self.exchange(rows, assignments.ends, self._products)
        )
        if assignments.nowhere is not None:
            out = out.masked_fill(assignments.nowhere[:, None], 0)
        return out.index_select(0, assignments.order.argsort())

    def _products(
        self, rows: Float[Tensor, "n D"], ends: Int[Tensor, " own_experts"]
    ) -> Float[Tensor, "n D"]:
        gate_up: Tensor = self.gate_up
        down: Tensor = self.down
        if (
            self.exchange is not None
        ):  # DTensors of which the own experts are here
            gate_up = gate_up.to_local()  # type: ignore[operator]
            down = down.to_local()  # type: ignore[operator]
        gate, up = _grouped(rows, gate_up, ends).chunk(2, -1)
        return _grouped(F.silu(gate) * up, down, ends)

    def _routing(
        self,
        logits: Float[Tensor, "T experts"],
        probabilities: Float[Tensor, "T experts"],
        first: Int[Tensor, " T"],
        valid: Bool[Tensor, " T"] | None,
        assignments: "_Assignments",
    ) -> Routing:
        weights = (
            logits.new_ones(len(logits)) if valid is None else valid.float()
        )
        num_tokens = weights.sum()
        share = weights / num_tokens.clamp(min=1)
        # Products of matrices: torch squeezes that of a vector in place, and refuses to
        # use a result again that selective checkpointing has kept and that was changed.
        chosen = F.one_hot(first, self.config.num_experts).float()
        density = share[None] @ chosen
        probability = share[None] @ probabilities
        balance = self.config.num_experts * (density * probability).sum()
        log_sum_exp = logits.logsumexp(-1)
        with torch.no_grad():
            entropy = weights @ (log_sum_exp - (probabilities * logits).sum(-1))
        return Routing(
            balance,
            share @ log_sum_exp.square(),
            assignments.load,
            assignments.dropped,
            entropy,
            num_tokens,
        )

    def adapt_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sparse up-cycling (arXiv:2212.05055): each expert starts as the dense
        feed-forward, the router as initialised here.

        Gates that sum to 1 then give the dense output.
        """
        if "gate_up.weight" not in state:
            return state
        copies = {
            n: state[f"{n}.weight"].expand(self.config.num_experts, -1, -1)
            for n in ("gate_up", "down")
        }
        return {"router.weight": self.router.weight.detach(), **copies}


def _grouped(
    rows: Float[Tensor, "n i"],
    weight: Float[Tensor, "experts o i"],
    ends: Int[Tensor, " experts"],
) -> Float[Tensor, "n o"]:
    """Each expert's rows times its weight; torch.compile supports it only in bf16."""
    if rows.dtype == torch.bfloat16:
        return F.grouped_mm(rows, weight.transpose(1, 2), offs=ends)
    return _uncompiled(rows, weight.transpose(1, 2), ends)


# Not `torch.compiler.disable`, which imports the compiler and takes seconds.
@torch._disable_dynamo
def _uncompiled(
    rows: Float[Tensor, "n i"],
    weight: Float[Tensor, "experts i o"],
    ends: Int[Tensor, " experts"],
) -> Float[Tensor, "n o"]:
    return F.grouped_mm(rows, weight, offs=ends)


class _Assignments(NamedTuple):
    """Assignments of tokens to experts, sorted by expert."""

    order: Int[Tensor, " n"]
    """The number of each sorted assignment: all first choices, then all second ones."""
    ends: Int[Tensor, " experts"]
    nowhere: Bool[Tensor, " n"] | None
    """True for padding and dropped assignments, at the end; None: there are none."""
    load: Float[Tensor, " experts"]
    dropped: Float[Tensor, ""]


class MoEBlock(AttentionBlock):
    """A transformer block whose feed-forward is a mixture of experts."""

    def forward(
        self,
        x: Float[Tensor, "T D"],
        context: AttentionContext,
        rotary: RotaryEmbedding | None = None,
        valid: Bool[Tensor, " T"] | None = None,
    ) -> tuple[Float[Tensor, "T D"], Routing]:
        x = self.attend(x, context, rotary)
        if self.norm_placement == "post":
            out, routing = self.feed_forward(x, valid)
            return x + self.feed_forward_scale(
                self.feed_forward_norm(out)
            ), routing
        out, routing = self.feed_forward(self.feed_forward_norm(x), valid)
        return x + self.feed_forward_scale(out), routing


def methods_of_unit(unit: nn.Module) -> list[tuple[nn.Module, str]]:
    """The methods of a unit that are checkpointed one by one, of which the compiler can
    take the first: `forward`, but a block whose experts are on other ranks does
    attention in one piece, and in another what waits for those ranks."""
    mixture = unit.feed_forward if isinstance(unit, MoEBlock) else None
    if isinstance(mixture, MoE) and mixture.exchange is not None:
        return [(unit, "attend"), (mixture, "forward")]
    return [(unit, "forward")]


def router_losses(
    config: MoE.Config, routings: dict[int, Routing], num_targets: int
) -> tuple[Float[Tensor, ""], dict[str, MeanMetric]]:
    """What the routers add to the objective, and metrics by name.

    The losses are means over the tokens of this batch. They are multiplied by its
    number of targets, so that they are means again once the loop has divided by it.

    router/balance       mean over the MoE blocks; 1 balanced, num_experts collapsed
    router/z             mean over the MoE blocks of the squared log-sum-exp
    router/dropped       share of all assignments
    router/entropy/3     of block 3 in nats; log(num_experts) if uniform
    router/load/3/17     of expert 17 in block 3; 1 is balanced
    """
    balance, z, dropped, tokens = (
        torch.stack([getattr(r, name) for r in routings.values()])
        for name in ("balance", "z", "dropped", "num_tokens")
    )
    means = {
        "router/balance": MeanMetric(balance.detach() @ tokens, tokens.sum()),
        "router/z": MeanMetric(z.detach() @ tokens, tokens.sum()),
        "router/dropped": MeanMetric(
            dropped.sum(), config.top_k * tokens.sum()
        ),
    }
    for layer, routing in routings.items():
        means[f"router/entropy/{layer}"] = MeanMetric(
            routing.entropy, routing.num_tokens
        )
        fair = routing.load * config.num_experts / config.top_k
        for expert, load in enumerate(fair.unbind()):
            means[f"router/load/{layer}/{expert}"] = MeanMetric(
                load, routing.num_tokens
            )
    return (
        num_targets
        * (
            config.balance_loss * balance.sum() + config.router_z_loss * z.sum()
        ),
        means,
    )
