"""The language model: isolation of packed documents, losses by source, bookkeeping."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn.batches import (
    DECODER,
    VOCABULARY,
    alone,
    hidden,
    language_model,
    packed,
    reset_parameters,
    without_gradient,
)
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

from mm1.batch import IGNORE
from mm1.nn.attention import PackedAttention
from mm1.nn.block import NormPlacement, SwiGLU
from mm1.nn.decoder import Decoder

LENGTHS = (7, 1, 12, 5, 12, 3)


@pytest.mark.parametrize("document", range(len(LENGTHS)))
def test_a_packed_document_has_the_states_it_has_alone(document: int) -> None:
    model = language_model()
    batch = packed(LENGTHS)
    start, stop = batch.cu_seqlens[document : document + 2].tolist()
    # Matrix products of other sizes sum in another order: states of unit size, measured
    # 1e-6.
    torch.testing.assert_close(
        hidden(model, batch)[start:stop],
        hidden(model, alone(batch, document)),
        atol=1e-5,
        rtol=0,
    )


def test_a_token_has_exactly_no_gradient_on_another_document() -> None:
    model = language_model()
    batch = packed(LENGTHS)
    x = model.inputs(batch).detach().requires_grad_()
    out = model.decoder(
        x, batch.positions, PackedAttention(batch.cu_seqlens, batch.max_seqlen)
    )
    (gradient,) = torch.autograd.grad(
        out[19].square().sum(), x
    )  # the last token of the third document
    reached = gradient.any(-1)
    assert reached.tolist() == [
        8 <= token < 20 for token in range(sum(LENGTHS))
    ]


def test_positions_are_the_batchs() -> None:
    """A constant added to all of a document's changes nothing. Where documents see one
    another, as with the loader's `isolate=False`, it matters that they restart."""
    model = language_model()
    batch = packed((12,))
    plain, moved, restarted = (
        model(replace(batch, positions=positions)).objective
        for positions in (
            torch.arange(12),
            torch.arange(12) + 100,
            torch.arange(12) % 6,
        )
    )
    # Angles of some hundred radians in fp32; measured 1e-7 of the loss.
    torch.testing.assert_close(moved, plain, rtol=1e-4, atol=0)
    assert (restarted - plain).abs() > 1e-3 * plain


def test_the_loss_of_a_batch_is_the_sum_over_its_documents() -> None:
    model = language_model(z_loss=1e-2)
    batch = packed(LENGTHS)
    together = model(batch).objective
    apart = sum(model(alone(batch, i)).objective for i in range(len(LENGTHS)))
    torch.testing.assert_close(together, apart)


def test_losses_are_cross_entropy_in_all_and_by_source() -> None:
    model = language_model(z_loss=1e-2)
    batch = packed(LENGTHS)
    logits = hidden(model, batch) @ model.decoder.head.T
    nll = F.cross_entropy(
        logits, batch.targets, ignore_index=IGNORE, reduction="none"
    )
    learnt = batch.targets != IGNORE
    losses = model(batch)
    z_loss = 1e-2 * logits.logsumexp(-1)[learnt].square().sum()
    torch.testing.assert_close(losses.objective, nll.sum() + z_loss)
    torch.testing.assert_close(losses.means["loss"].total, nll.sum())
    torch.testing.assert_close(losses.means["z_loss"].total, z_loss)
    assert (
        losses.means["accuracy"].total
        == (logits.argmax(-1) == batch.targets).sum()
    )
    for number, name in enumerate(batch.source_names):
        own = learnt & (batch.sources == number)
        torch.testing.assert_close(
            losses.means[f"loss/{name}"].total, nll[own].sum()
        )
        assert losses.means[f"loss/{name}"].count == own.sum()
    assert all(
        not x.requires_grad
        for mean in losses.means.values()
        for x in (mean.total, mean.count)
    )


def test_fsdp_finds_the_objective_in_what_forward_returns() -> None:
    losses = language_model()(packed(LENGTHS))
    tensors, structure = tree_flatten(losses)
    assert tensors == [losses.objective]
    assert tree_unflatten(tensors, structure).means is losses.means


def test_log_probs_are_those_of_the_targets() -> None:
    model = language_model()
    batch = packed(LENGTHS)
    logits = hidden(model, batch) @ model.decoder.head.T
    expected = -F.cross_entropy(
        logits, batch.targets, ignore_index=IGNORE, reduction="none"
    )
    log_probs, hits = model.log_probs(batch)
    torch.testing.assert_close(log_probs, expected)
    assert torch.equal(
        hits, (logits.argmax(-1) == batch.targets) | (batch.targets == IGNORE)
    )


def test_a_batch_without_targets_gives_zero_and_no_nan() -> None:
    model = language_model(z_loss=1e-4)
    batch = packed(LENGTHS)
    losses = model(
        replace(
            batch, targets=torch.full_like(batch.targets, IGNORE), num_targets=0
        )
    )
    losses.objective.backward()
    assert losses.objective == 0
    assert all(
        p.grad is not None and not p.grad.any() for p in model.parameters()
    )


OPTIONS: list[dict[str, Any]] = [
    {"tied": False},
    {"tied": True},
    {"qk_norm": None},
    {"qk_norm": "full", "norm_placement": "post"},
    {"qkv_bias": True, "llama3_scaling": (8.0, 1.0, 4.0, 16)},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_parameter_learns_and_changes_in_one_step(
    options: dict[str, Any],
) -> None:
    model = language_model(decoder=replace(DECODER, **options))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(packed(LENGTHS)).objective.backward()
    assert without_gradient(model) == []
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()
    assert [
        name
        for name, p in model.named_parameters()
        if torch.equal(p, before[name])
    ] == []


def test_overfits_a_batch() -> None:
    model = language_model()
    batch = packed((12, 12))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        losses = model(batch)
        losses.objective.backward()
        optimizer.step()
    assert losses.means["loss"].total / losses.means["loss"].count < 0.1
    assert losses.means["accuracy"].total == batch.num_targets


def test_runs_in_bfloat16_close_to_fp32() -> None:
    model = language_model()
    batch = packed(LENGTHS)
    exact = model(batch).objective / batch.num_targets
    model.bfloat16()(batch).objective.backward()
    # Logits of unit size in 8-bit mantissas; measured 1e-4 in the mean.
    torch.testing.assert_close(
        model(batch).objective / batch.num_targets, exact, atol=5e-3, rtol=0
    )
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.parameters()
    )


def test_builds_on_meta_and_initialises_after() -> None:
    with torch.device("meta"):
        model = language_model()
    assert all(p.is_meta for p in model.parameters())
    model.to_empty(device="cpu")
    reset_parameters(model)
    batch = packed(LENGTHS)
    # Unit-variance logits add about a half to the uniform guess.
    assert model(batch).objective.item() / batch.num_targets == pytest.approx(
        math.log(VOCABULARY) + 0.5, abs=0.5
    )


@pytest.mark.parametrize("placement", ["pre", "post"])
def test_norms_stand_before_or_behind_attention_and_feed_forward(
    placement: NormPlacement,
) -> None:
    block = language_model(
        decoder=replace(DECODER, norm_placement=placement)
    ).decoder.blocks[0]
    x = torch.randn(6, 24)
    context = PackedAttention(torch.tensor([0, 6], dtype=torch.int32), 6)
    for name in ("attention", "feed_forward"):  # a norm of weight 0 gives 0
        torch.nn.init.zeros_(block.get_submodule(f"{name}_norm").weight)
    assert torch.equal(
        block(x, context), x
    )  # post: nothing is added; pre: the maps read zeros
    torch.nn.init.zeros_(block.get_submodule("attention.out").weight)
    torch.nn.init.ones_(block.feed_forward_norm.weight)
    added = block(x, context) - x
    if placement == "pre":
        torch.testing.assert_close(
            added, block.feed_forward(block.feed_forward_norm(x))
        )
    else:
        torch.testing.assert_close(
            added.square().mean(-1), torch.ones(6), atol=1e-3, rtol=0
        )  # epsilon 1e-5 of it


def test_the_gate_is_the_first_half_and_is_the_one_squashed() -> None:
    feed_forward = SwiGLU(6, 10, gain=1.0)
    x = torch.randn(4, 6)
    gate, up = (x @ w.T for w in feed_forward.gate_up.weight.split(10))
    torch.testing.assert_close(
        feed_forward(x), feed_forward.down(gate / (1 + (-gate).exp()) * up)
    )


@pytest.mark.parametrize(
    ("depth", "dim", "num_heads", "expected"),
    [
        (12, 768, 12, 84.9e6),
        (24, 1024, 16, 302.0e6),
        (24, 2048, 32, 1.208e9),
        (26, 3072, 24, 2.944e9),
    ],
)
def test_blocks_hold_about_twelve_squared_widths(
    depth: int, dim: int, num_heads: int, expected: float
) -> None:
    with torch.device("meta"):
        decoder = Decoder.Config(
            depth=depth, dim=dim, num_heads=num_heads
        ).build(vocab_size=8)
    # 8/3 dim rounded up to a multiple of 256 is at most 3% more than 8/3 dim here.
    assert sum(p.numel() for p in decoder.blocks.parameters()) == pytest.approx(
        expected, rel=0.03
    )


def test_flops_count_every_matrix_product_of_one_document() -> None:
    model = language_model(decoder=replace(DECODER, num_kv_heads=None))
    batch = packed((8,))
    with FlopCounterMode(display=False) as counter:
        model(batch).objective.backward()
    # Plain products compute the half above the diagonal too: 8 x 8 pairs instead of 36.
    wasted = 12 * (64 - 36) * 24 * 2
    assert (
        sum(model.flops(batch).values()) == counter.get_total_flops() - wasted
    )
