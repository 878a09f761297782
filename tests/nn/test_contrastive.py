"""The contrastive losses on one process: published formulas, equal captions, bounded
memory."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mm1.nn.contrastive import (
    sigmoid_contrastive_loss,
    softmax_contrastive_loss,
)

SCALE = 10.0
BIAS = -3.0
EQUAL = torch.tensor([5, 6, 7, 7, 8, 5])
"""Captions of six pairs, two of which occur twice."""

Loss = Callable[..., tuple[Tensor, Tensor]]


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed)),
        dim=-1,
    )


def factors() -> list[Tensor]:
    return [
        torch.tensor([value], requires_grad=True) for value in (SCALE, BIAS)
    ]


def softmax(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    _: Tensor,
    ids: Tensor,
    **options: int,
) -> Tensor:
    return softmax_contrastive_loss(images, texts, scale, ids, **options)[0]


def sigmoid(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    bias: Tensor,
    ids: Tensor,
    **options: int,
) -> Tensor:
    return sigmoid_contrastive_loss(images, texts, scale, bias, ids, **options)[
        0
    ]


def plain_softmax(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, ids: Tensor
) -> Tensor:
    """CLIP's figure 3, summed over pairs, without equal captions."""
    equal = (ids[:, None] == ids) & ~torch.eye(len(ids), dtype=torch.bool)
    scores = (scale * images @ texts.T).masked_fill(equal, -torch.inf)
    own = torch.arange(len(ids))
    return (
        F.cross_entropy(scores, own, reduction="sum")
        + F.cross_entropy(scores.T, own, reduction="sum")
    ) / 2


def plain_sigmoid(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, ids: Tensor
) -> Tensor:
    """SigLIP's algorithm 1, summed over images, without equal captions."""
    own = torch.eye(len(ids))
    counts = (ids[:, None] != ids).float() + own
    return -(
        F.logsigmoid((2 * own - 1) * (scale * images @ texts.T + bias)) * counts
    ).sum()


@pytest.mark.parametrize(
    ("ours", "plain"), [(softmax, plain_softmax), (sigmoid, plain_sigmoid)]
)
@pytest.mark.parametrize(
    "ids", [torch.arange(6), EQUAL], ids=["all differ", "some equal"]
)
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_equals_the_published_formula_whatever_the_chunks(
    ours: Loss, plain: Loss, ids: Tensor, rows: int
) -> None:
    """fp32 sums in another order: worst measured 8.4e-8 of a loss, 1e-5 on gradients of
    up to 38."""
    given = [
        x.requires_grad_() for x in (unit(6, 8), unit(6, 8, seed=1))
    ] + factors()
    loss = ours(*given, ids, logits_per_chunk=6 * rows)
    wanted = plain(*given, ids)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    used = given if ours is sigmoid else given[:3]
    for a, b in zip(
        torch.autograd.grad(3 * loss, used),
        torch.autograd.grad(3 * wanted, used),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_hit_is_an_image_whose_own_text_is_nearest() -> None:
    images = unit(6, 8)
    texts = unit(6, 8, seed=1)
    ids = torch.arange(6)
    texts[:3] = images[:3]
    nearest = (images @ texts.T).argmax(1)
    assert 3 <= (nearest == ids).sum() < 6
    scale, bias = factors()
    for _, hits in (
        softmax_contrastive_loss(images, texts, scale, ids),
        sigmoid_contrastive_loss(images, texts, scale, bias, ids),
    ):
        assert hits == (nearest == ids).sum()


@pytest.mark.parametrize("loss", [softmax, sigmoid])
def test_an_equal_caption_is_no_negative(loss: Loss) -> None:
    images = unit(3, 8)
    texts = unit(3, 8, seed=1)
    texts[1] = texts[0]
    masked, told_apart = (
        loss(images, texts, *factors(), torch.tensor(ids))
        for ids in ([7, 7, 8], [7, 9, 8])
    )
    assert masked < told_apart


def test_nothing_is_differentiated_where_nothing_learns() -> None:
    with torch.no_grad():
        assert not softmax(
            unit(6, 8), unit(6, 8), *factors(), EQUAL
        ).requires_grad


class _Largest(TorchDispatchMode):
    """The elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        tensors = made if isinstance(made, tuple | list) else (made,)
        self.elements = max(
            [
                self.elements,
                *(t.numel() for t in tensors if isinstance(t, Tensor)),
            ]
        )
        return made


@pytest.mark.parametrize("loss", [softmax, sigmoid])
def test_memory_grows_with_the_batch_and_not_with_its_square(
    loss: Loss,
) -> None:
    """No tensor, forward and backward, is larger than the features or the bound on
    scores."""
    for pairs in (64, 256):
        images, texts = (
            unit(pairs, 8, seed=seed).requires_grad_() for seed in (0, 1)
        )
        with _Largest() as largest:
            loss(
                images,
                texts,
                *factors(),
                torch.arange(pairs),
                logits_per_chunk=1024,
            ).backward()
        assert largest.elements == max(1024, 8 * pairs)
