"""Every attention context equals attention with the dense mask."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nn import masks
from torch import Tensor

from mm1.nn import attention
from mm1.nn.attention import Attention, FullAttention, PackedAttention
from mm1.nn.position import apply_rotary, rotary_embedding

LENGTHS = (5, 1, 17, 9, 8, 33, 2, 300, 6)
"""More than one length in a group, and one beyond `EAGER_MAX_LENGTH`."""


def qkv(
    num_tokens: int,
    heads: int,
    kv_heads: int,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(num_tokens, n, 16, dtype=dtype).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    ]


def dense(
    q: Float[Tensor, "T heads d"],
    k: Float[Tensor, "T kv d"],
    v: Float[Tensor, "T kv d"],
    seen: Bool[Tensor, "T T"],
) -> Float[Tensor, "T heads d"]:
    share = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(share, 1)
    v = v.repeat_interleave(share, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    return torch.einsum(
        "hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v
    )


def cu_seqlens(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
def test_packed_equals_the_dense_mask_forward_and_backward(
    heads: int, kv_heads: int
) -> None:
    ends = cu_seqlens(LENGTHS)
    inputs = qkv(sum(LENGTHS), heads, kv_heads)
    expected = dense(
        *inputs, masks.causal_mask(sum(LENGTHS)) & masks.document_mask(ends)
    )
    given = PackedAttention(ends, max(LENGTHS)).attend(*inputs)
    slope = torch.randn_like(given)
    # fp32 sums of up to 300 products in another order; measured 5e-7 forward, 3e-6
    # backward.
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    for a, b in zip(
        torch.autograd.grad(given, inputs, slope),
        torch.autograd.grad(expected, inputs, slope),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_a_document_has_exactly_no_gradient_on_another() -> None:
    inputs = qkv(sum(LENGTHS), 4, 2)
    out = PackedAttention(cu_seqlens(LENGTHS), max(LENGTHS)).attend(*inputs)
    for gradient in torch.autograd.grad(
        out[6:23].square().sum(), inputs
    ):  # the third document
        assert gradient[6:23].any()
        assert not gradient[:6].any()
        assert not gradient[23:].any()


def test_empty_documents_change_nothing() -> None:
    inputs = qkv(7, 2, 2)
    lengths = (0, 3, 0, 4, 0, 0)
    with_empty = PackedAttention(cu_seqlens(lengths), 4).attend(*inputs)
    assert torch.equal(
        with_empty, PackedAttention(cu_seqlens((3, 4)), 4).attend(*inputs)
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [7, attention.EAGER_MAX_LENGTH + 1])
def test_everything_equals_the_fused_kernel(causal: bool, length: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, length, 4, 16)
    expected = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=causal
    ).transpose(1, 2)
    # Another order of fp32 sums; measured 4e-7.
    torch.testing.assert_close(
        FullAttention(causal=causal).attend(q, k, v),
        expected,
        atol=5e-6,
        rtol=0,
    )


def test_scores_are_exact_in_low_precision() -> None:
    exact = qkv(50, 2, 2)
    rounded = [x.detach().bfloat16() for x in exact]
    given = PackedAttention(cu_seqlens((50,)), 50).attend(*rounded)
    expected = PackedAttention(cu_seqlens((50,)), 50).attend(
        *(x.float() for x in rounded)
    )
    assert given.dtype == torch.bfloat16
    assert torch.equal(given, expected.bfloat16())


def test_heads_must_share_evenly() -> None:
    with pytest.raises(ValueError, match="4 query heads cannot share 3"):
        Attention(16, num_heads=4, num_kv_heads=3)


def test_qk_norm_is_over_each_head_or_over_all_heads() -> None:
    """Queries of one length stay so under "head"; under "full" a head may be as long as
    all of them together."""
    x = torch.randn(5, 24)
    for qk_norm, shape in (("head", (6,)), ("full", (24,))):
        attention = Attention(24, num_heads=4, num_kv_heads=2, qk_norm=qk_norm)
        keeper = Keeper()
        attention(x, keeper)
        q, k = attention.qkv(x)[:, :36].split((24, 12), -1)
        heads = (4, 2) if qk_norm == "head" else (1, 1)
        for kept, plain, num in zip(keeper.seen, (q, k), heads, strict=False):
            expected = F.rms_norm(
                plain.unflatten(-1, (num, -1)),
                (plain.shape[-1] // num,),
                eps=1e-5,
            )
            torch.testing.assert_close(kept.flatten(1), expected.flatten(1))
        assert attention.q_norm is not None
        assert attention.q_norm.weight.shape == shape


def test_queries_and_keys_are_normed_apart_and_turned_and_values_are_not() -> (
    None
):
    x = torch.randn(5, 24)
    attention = Attention(24, num_heads=4, num_kv_heads=2, qk_norm="head")
    assert attention.q_norm is not None
    assert attention.k_norm is not None
    torch.nn.init.constant_(attention.q_norm.weight, 2.0)
    torch.nn.init.constant_(attention.k_norm.weight, 3.0)
    turns = rotary_embedding(
        torch.tensor([0, 3, 1, 7, 2]), 6, base=100.0, dtype=torch.float32
    )
    keeper = Keeper()
    attention(x, keeper, turns)
    q, k, v = attention.qkv(x).unflatten(-1, (-1, 6)).split((4, 2, 2), -2)
    for kept, plain, weight in zip(keeper.seen, (q, k), (2, 3), strict=False):
        torch.testing.assert_close(
            kept,
            apply_rotary(weight * F.rms_norm(plain, (6,), eps=1e-5), turns),
        )
    assert torch.equal(keeper.seen[2], v)


def test_biases_of_queries_keys_and_values_alone() -> None:
    names = [
        name
        for name, _ in Attention(
            24, num_heads=4, qkv_bias=True
        ).named_parameters()
    ]
    assert names == ["qkv.weight", "qkv.bias", "out.weight"]


class Keeper(FullAttention):
    """Keeps its inputs."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.seen = (q, k, v)
        return q


@pytest.mark.gpu
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
def test_variable_length_kernel_equals_the_dense_mask(
    heads: int, kv_heads: int
) -> None:
    ends = cu_seqlens(LENGTHS).cuda()
    inputs = [
        x.detach().cuda().bfloat16() for x in qkv(sum(LENGTHS), heads, kv_heads)
    ]
    given = PackedAttention(ends, max(LENGTHS)).attend(*inputs)
    seen = (
        masks.causal_mask(sum(LENGTHS)) & masks.document_mask(ends.cpu())
    ).cuda()
    # Inputs are equal, so what differs is the rounding of probabilities and outputs to
    # bf16's 8 bits.
    torch.testing.assert_close(
        given.float(),
        dense(*(x.float() for x in inputs), seen),
        atol=2e-2,
        rtol=0,
    )
