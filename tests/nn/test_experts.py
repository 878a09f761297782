"""MoE: the grouped products against a plain loop, the gate, its losses, capacity
and padding."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nn.batches import (
    DECODER,
    VOCABULARY,
    alone,
    hidden,
    language_model,
    multimodal_model,
    packed,
    reset_parameters,
    without_gradient,
)
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from mm1.nn.attention import PackedAttention
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE, MoEBlock
from mm1.nn.model import adapt

CONFIG = MoE.Config(num_experts=4, every=2)
LENGTHS = (7, 1, 12, 5, 12, 3)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"renormalise": False},
    {"top_k": 1},
    {"top_k": 3, "num_experts": 7},
    {"capacity_factor": 1.0},
    {"capacity_factor": 1.0, "top_k": 3},
]


def experts(**options: Any) -> MoE:
    torch.manual_seed(0)
    return replace(CONFIG, **options).build(dim=16, hidden_dim=24, gain=1.0)


def loop(
    module: MoE,
    x: Float[Tensor, "T D"],
    valid: Bool[Tensor, " T"] | None = None,
) -> Float[Tensor, "T D"]:
    """What `MoE` computes, in the plainest way: choice by choice, expert by expert,
    row by row."""
    c = module.config
    out = torch.zeros_like(x)
    probabilities = (x.float() @ module.router.weight.float().T).softmax(-1)
    best = probabilities.sort(dim=-1, descending=True, stable=True).indices[
        :, : c.top_k
    ]
    room = [len(x) * c.top_k] * c.num_experts
    if module.training and c.capacity_factor is not None:
        room = [
            max(1, int(len(x) * c.capacity_factor / c.num_experts))
        ] * c.num_experts
    for choice in range(c.top_k):
        for token in range(len(x)):
            if valid is not None and not valid[token]:
                continue
            expert = int(best[token, choice])
            if room[expert] == 0:
                continue
            room[expert] -= 1
            chosen = probabilities[token, best[token]]
            weight = chosen[choice] / (chosen.sum() if c.renormalise else 1)
            gate, up = (module.gate_up[expert] @ x[token]).chunk(2)
            out[token] = out[token] + weight * (
                module.down[expert] @ (F.silu(gate) * up)
            )
    return out


def decoder(**options: Any) -> Decoder.Config:
    return replace(DECODER, experts=replace(CONFIG, **options))


def sparse_model(**options: Any) -> LanguageModel:
    return language_model(decoder=decoder(**options))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_grouped_products_equal_the_loop_forward_and_backward(
    options: dict[str, Any], padded: bool
) -> None:
    module = experts(**options)
    x = torch.randn(37, 16, requires_grad=True)
    valid = torch.arange(37) % 5 != 3 if padded else None
    inputs = [x, *module.parameters()]
    given, _ = module(x, valid)
    expected = loop(module, x, valid)
    slope = torch.randn_like(given)
    # Sums of 16 or 24 products, for weights over up to 37 tokens, in another order:
    # measured 1.4e-6, backward 3.8e-6.
    torch.testing.assert_close(given, expected, atol=5e-6, rtol=0)
    for a, b in zip(
        torch.autograd.grad(given, inputs, slope),
        torch.autograd.grad(expected, inputs, slope),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_memory_behind_the_groups_is_never_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels leave rows behind the last group unwritten; here those rows hold NaN,
    forward and backward."""

    class Unwritten(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, start: int) -> Tensor:
            ctx.start = start
            return x.index_fill(0, torch.arange(start, len(x)), torch.nan)

        @staticmethod
        def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
            return (
                slope.index_fill(
                    0, torch.arange(ctx.start, len(slope)), torch.nan
                ),
                None,
            )

    def grouped_mm(x: Tensor, weight: Tensor, *, offs: Tensor) -> Tensor:
        stop = int(offs[-1])
        x = Unwritten.apply(x, stop)
        rows = x[:stop].split(offs.diff(prepend=offs.new_zeros(1)).tolist())
        products = torch.cat(
            [
                *(r @ w for r, w in zip(rows, weight, strict=True)),
                x.new_zeros(len(x) - stop, weight.shape[2]),
            ]
        )
        return Unwritten.apply(products, stop)

    monkeypatch.setattr(F, "grouped_mm", grouped_mm)
    module = experts(capacity_factor=1.0)
    x = torch.randn(37, 16, requires_grad=True)
    out, _ = module(x, torch.arange(37) < 30)
    out.square().sum().backward()
    assert all(
        t.isfinite().all()
        for t in (out, x.grad, *(p.grad for p in module.parameters()))
    )


def test_the_gate_is_fp32_whatever_is_computed_in() -> None:
    module = experts().bfloat16()
    x = torch.randn(64, 16).bfloat16()
    out, routing = module(x)
    assert out.dtype == torch.bfloat16
    assert {t.dtype for t in routing} == {torch.float32}
    exact = experts()
    exact.load_state_dict(module.state_dict())
    expected, same = exact(x.float())
    # The inputs are equal, so the choice is too, to the bit; outputs of unit size in
    # 8-bit mantissas, measured 0.03.
    assert torch.equal(routing.load, same.load)
    assert torch.equal(routing.balance, same.balance)
    torch.testing.assert_close(out.float(), expected, atol=0.06, rtol=0)


def test_balance_counts_first_choices() -> None:
    """All tokens prefer expert 0, and their second choices differ: the loss is that of
    first choices, as in Switch and GShard."""
    module = experts()
    torch.nn.init.zeros_(module.router.weight)
    with torch.no_grad():
        module.router.weight[:, :4] = torch.eye(4)
    x = torch.zeros(3, 16)
    x[:, 0] = 2.0
    x[torch.arange(3), torch.arange(1, 4)] = 1.0
    mean = x[:, :4].softmax(-1).mean(0)
    assert module(x)[1].balance.item() == pytest.approx(4 * mean[0].item())


def test_balance_is_one_when_balanced_and_their_number_when_collapsed() -> None:
    module = experts(num_experts=4, top_k=1)
    torch.nn.init.zeros_(module.router.weight)
    with torch.no_grad():
        module.router.weight[:, :4] = torch.eye(4)
    balanced = torch.zeros(8, 16)
    balanced[torch.arange(8), torch.arange(8) % 4] = 30.0
    assert module(balanced)[1].balance.item() == pytest.approx(1)
    assert module(balanced)[1].load.tolist() == [2, 2, 2, 2]
    assert module(balanced[:1].expand(8, -1))[
        1
    ].balance.item() == pytest.approx(4)
    assert module(balanced[:1].expand(8, -1))[1].load.tolist() == [8, 0, 0, 0]


def test_figures_of_a_router_that_knows_no_difference() -> None:
    module = experts(num_experts=4)
    torch.nn.init.zeros_(module.router.weight)
    routing = module(torch.randn(10, 16))[1]
    assert routing.entropy.item() / 10 == pytest.approx(math.log(4))
    assert routing.z.item() == pytest.approx(math.log(4) ** 2)
    assert routing.balance.item() == pytest.approx(
        1
    )  # the probabilities are even, whoever is chosen


def test_losses_push_towards_balance_and_small_logits() -> None:
    for name in ("balance", "z"):
        module = experts()
        with torch.no_grad():
            module.router.weight[0] += 0.3  # most tokens want expert 0
        x = torch.rand(64, 16)
        optimizer = torch.optim.SGD(module.router.parameters(), lr=0.3)
        values = []
        for _ in range(12):
            loss = getattr(module(x)[1], name)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert values[-1] < 0.7 * values[0]


def test_overflow_is_dropped_and_counted_second_choices_first() -> None:
    module = experts(
        num_experts=2, capacity_factor=1.0
    )  # room for 3 of 6 tokens in each; every token wants both
    with torch.no_grad():
        module.router.weight[:] = torch.eye(2, 16)
    x = torch.zeros(6, 16)
    x[:, 2:] = torch.randn(6, 14)
    x[:4, 0] = 1.0  # four tokens want expert 0 first, two expert 1
    x[4:, 1] = 1.0
    out, routing = module(x)
    assert routing.load.tolist() == [6, 6]
    assert routing.dropped == 6
    # Expert 0 takes tokens 0, 1, 2; expert 1 takes 4, 5, then the first second choice,
    # token 0; token 3 goes nowhere.
    assert out[3].tolist() == [0.0] * 16
    whole, _ = module.eval()(x)
    same = [
        torch.allclose(a, b, atol=1e-5) for a, b in zip(out, whole, strict=True)
    ]
    assert same == [True, False, False, False, False, False]


def test_capacity_is_never_less_than_one() -> None:
    _, routing = experts(num_experts=4, top_k=1, capacity_factor=0.1)(
        torch.randn(8, 16)
    )
    assert routing.dropped == (routing.load - 1).clamp(min=0).sum()


def test_capacity_of_apples_group() -> None:
    """AXLearn's 128 for 4,096 tokens over 64 experts at a factor of 2: all tokens alike
    fill exactly two experts."""
    module = experts(num_experts=64, capacity_factor=2.0)
    _, routing = module(torch.randn(1, 16).expand(4096, -1))
    assert routing.dropped == 2 * (4096 - 128)


def test_nothing_is_dropped_outside_of_training() -> None:
    module = experts(capacity_factor=0.25)
    x = torch.randn(40, 16)
    assert module(x)[1].dropped > 0
    out, routing = module.eval()(x)
    assert routing.dropped == 0
    # One row alone is a product of another shape; measured 2e-7.
    torch.testing.assert_close(module(x[7:8])[0], out[7:8], atol=2e-6, rtol=0)


@pytest.mark.parametrize("capacity_factor", [None, 1.0])
def test_padding_goes_nowhere_counts_nowhere_and_moves_nothing(
    capacity_factor: float | None,
) -> None:
    module = experts(capacity_factor=capacity_factor)
    x = torch.randn(30, 16)
    valid = torch.arange(30) < 24
    out, routing = module(x, valid)
    other, same = module(torch.where(valid[:, None], x, 100.0), valid)
    assert torch.equal(out, other)
    assert all(torch.equal(a, b) for a, b in zip(routing, same, strict=True))
    assert not out[24:].any()
    assert routing.num_tokens == 24
    assert routing.load.sum() == 48
    if capacity_factor is None:
        assert torch.equal(out[:24], module(x[:24])[0])


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k of 5 experts out of 4"):
        experts(top_k=5)


@pytest.mark.parametrize(
    ("every", "sparse"), [(1, [0, 1, 2, 3]), (2, [1, 3]), (4, [3]), (5, [])]
)
def test_every_nth_block_is_sparse_the_dense_first(
    every: int, sparse: list[int]
) -> None:
    built = replace(decoder(every=every), depth=4).build(vocab_size=8)
    assert [
        i for i, block in enumerate(built.blocks) if isinstance(block, MoEBlock)
    ] == sparse


def test_weights_have_the_agreed_names_and_shapes() -> None:
    state = decoder().build(vocab_size=8).blocks[1].feed_forward.state_dict()
    shapes = {name: tuple(t.shape) for name, t in state.items()}
    assert shapes == {
        "router.weight": (4, 24),
        "gate_up": (4, 80, 24),
        "down": (4, 24, 40),
    }


@pytest.mark.parametrize("document", range(len(LENGTHS)))
def test_a_packed_document_has_the_states_it_has_alone(document: int) -> None:
    model = sparse_model(every=1)
    batch = packed(LENGTHS)
    start, stop = batch.cu_seqlens[document : document + 2].tolist()
    # As for dense blocks; measured 1.2e-6.
    torch.testing.assert_close(
        hidden(model, batch)[start:stop],
        hidden(model, alone(batch, document)),
        atol=1e-5,
        rtol=0,
    )


def test_the_objective_holds_the_routers_losses_as_means_over_tokens() -> None:
    """Twice the batch doubles the objective, so that the loop's division by all targets
    leaves a mean."""
    weights: dict[str, Any] = {
        "balance_loss": 0.3,
        "router_z_loss": 0.2,
        "every": 1,
    }
    model = sparse_model(**weights)
    batch = packed(LENGTHS)
    losses = model(batch)
    plain = sparse_model(balance_loss=0.0, router_z_loss=0.0, every=1)(batch)
    _, routings = model.decoder.forward_with_routing(
        model.inputs(batch),
        batch.positions,
        PackedAttention(batch.cu_seqlens, batch.max_seqlen),
    )
    added = sum(0.3 * r.balance + 0.2 * r.z for r in routings.values())
    torch.testing.assert_close(
        losses.objective, plain.objective + batch.num_targets * added
    )
    twice = packed(LENGTHS + LENGTHS)
    twice = replace(
        twice, tokens=batch.tokens.repeat(2), targets=batch.targets.repeat(2)
    )
    torch.testing.assert_close(model(twice).objective, 2 * losses.objective)


def test_figures_are_logged_by_block_and_expert() -> None:
    model = sparse_model(capacity_factor=1.0)
    batch = packed(LENGTHS)
    means = model(batch).means
    value = {
        name: (m.total / m.count).item()
        for name, m in means.items()
        if name.startswith("router/")
    }
    assert set(value) == {
        *("router/balance", "router/z", "router/dropped", "router/entropy/1"),
        *(f"router/load/1/{expert}" for expert in range(4)),
    }
    assert sum(
        value[f"router/load/1/{expert}"] for expert in range(4)
    ) == pytest.approx(4)
    assert 0 < value["router/dropped"] < 1
    assert 0 < value["router/entropy/1"] < math.log(4)
    assert all(
        not t.requires_grad for m in means.values() for t in (m.total, m.count)
    )


def test_padding_of_a_batch_is_known_by_its_source() -> None:
    model = sparse_model(capacity_factor=1.0)
    batch = packed(LENGTHS)
    last = torch.arange(len(batch.tokens)) >= sum(LENGTHS[:-1])
    targets = batch.targets.masked_fill(last, -100)
    padded = replace(
        batch,
        sources=batch.sources.masked_fill(last, -1),
        targets=targets,
        num_padding=LENGTHS[-1],
        num_targets=int((targets != -100).sum()),
    )
    assert model(padded).means["router/z"].count == sum(LENGTHS[:-1])
    other = replace(
        padded,
        tokens=torch.where(last, (batch.tokens + 1) % VOCABULARY, batch.tokens),
    )
    assert torch.equal(model(padded).objective, model(other).objective)


def test_every_parameter_learns_and_changes_in_one_step() -> None:
    model = sparse_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(packed(LENGTHS)).objective.backward()
    assert without_gradient(model) == []
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()
    assert [
        name
        for name, p in model.named_parameters()
        if torch.equal(p, before[name])
    ] == []


def test_images_pass_through_experts() -> None:
    model = multimodal_model(decoder=decoder())
    model(packed((9, 5, 12, 6), num_pictures=3)).objective.backward()
    assert without_gradient(model) == []


def test_recomputed_blocks_give_the_same() -> None:
    model = sparse_model(capacity_factor=1.0)
    batch = packed(LENGTHS)
    gradients = []
    for again in (False, True):
        for block in model.decoder.blocks if again else ():
            inside = block.forward
            block.forward = lambda *a, f=inside: checkpoint(
                f, *a, use_reentrant=False
            )
        model.zero_grad()
        model(batch).objective.backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_generation_with_a_cache_equals_reading_everything_again() -> None:
    model = sparse_model(capacity_factor=0.5).eval()
    batch = packed((5, 9))
    cache = model.new_cache(2, 16)
    with torch.no_grad():
        logits = model.prefill(batch, cache)
        ends = batch.cu_seqlens[1:].long() - 1
        # Products of other shapes sum in another order: logits of unit size, measured
        # 8e-7.
        torch.testing.assert_close(
            logits,
            (hidden(model, batch) @ model.decoder.head.T)[ends],
            atol=1e-5,
            rtol=0,
        )
        new = logits.argmax(-1)
        step = model.step(new, cache)
        longer = [
            torch.cat((batch.tokens[a:b], t[None]))
            for a, b, t in ((0, 5, new[0]), (5, 14, new[1]))
        ]
        read = replace(packed((6, 10)), tokens=torch.cat(longer))
        expected = (hidden(model, read) @ model.decoder.head.T)[
            read.cu_seqlens[1:].long() - 1
        ]
        torch.testing.assert_close(step, expected, atol=1e-5, rtol=0)


@pytest.mark.long
def test_compiled_experts_give_the_same() -> None:
    """In a process of its own: the compiler cannot read through the shape checks of the
    tests."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compiled_experts.py")],
        timeout=240,
        check=False,
    )
    assert done.returncode == 0


def test_builds_on_meta_and_initialises_after() -> None:
    with torch.device("meta"):
        model = sparse_model()
    model.to_empty(device="cpu")
    reset_parameters(model)
    # As for the dense model, and a balance and a z-loss of about 1 and 4 with small
    # weights.
    assert model(packed(LENGTHS)).objective.item() / 34 == pytest.approx(
        math.log(VOCABULARY) + 0.5, abs=0.5
    )


def test_flops_count_the_active_experts_alone() -> None:
    batch = packed(LENGTHS)
    dense = language_model()
    sizes: dict[str, Any] = {
        "num_pairs": batch.num_pairs,
        "num_targets": batch.num_targets,
        "num_tokens": 40,
    }
    of_dense = dense.decoder.flops(**sizes)
    one, two = (
        sparse_model(top_k=k, num_experts=9).decoder.flops(**sizes)
        for k in (1, 2)
    )
    router = 6 * 40 * 24 * 9
    feed_forward = 6 * 40 * 3 * 24 * 40
    assert one == of_dense + router
    assert two == of_dense + router + feed_forward


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("top_k", [1, 2])
def test_an_upcycled_decoder_gives_the_dense_output(
    every: int, top_k: int
) -> None:
    dense = language_model()
    batch = packed(LENGTHS)
    torch.manual_seed(7)
    sparse = LanguageModel.Config(
        decoder=decoder(every=every, top_k=top_k)
    ).build(vocab_size=VOCABULARY)
    router = sparse.decoder.blocks[1].feed_forward.router.weight.clone()
    state = adapt(sparse, tree_map(torch.clone, dense.state_dict()))
    sparse.load_state_dict(state)
    # Equal experts with weights that sum to 1 up to rounding; states of unit size,
    # measured 5e-7.
    torch.testing.assert_close(
        hidden(sparse, batch), hidden(dense, batch), atol=1e-5, rtol=0
    )
    assert torch.equal(
        sparse.decoder.blocks[1].feed_forward.router.weight, router
    )


def test_sparse_weights_pass_adaptation_as_they_are() -> None:
    state = sparse_model().state_dict()
    adapted = adapt(sparse_model(), state)
    assert list(adapted) == list(state)
    assert all(adapted[name] is value for name, value in state.items())


@pytest.mark.gpu
def test_grouped_products_on_a_gpu_equal_those_in_fp32() -> None:
    torch.manual_seed(0)
    module = replace(CONFIG, num_experts=8, capacity_factor=1.0).build(
        dim=64, hidden_dim=128, gain=1.0
    )
    x = torch.randn(500, 64).bfloat16()
    valid = torch.arange(500) < 480
    on_gpu = replace(CONFIG, num_experts=8, capacity_factor=1.0).build(
        dim=64, hidden_dim=128, gain=1.0
    )
    on_gpu.load_state_dict(module.bfloat16().state_dict())
    given, routing = on_gpu.cuda().bfloat16()(x.cuda(), valid.cuda())
    expected, same = module.float()(x.float(), valid)
    # Equal inputs and gates; outputs of unit size are rounded to 8 bits in three
    # places.
    assert torch.equal(routing.load.cpu(), same.load)
    torch.testing.assert_close(given.float().cpu(), expected, atol=5e-2, rtol=0)
