"""Contrastive losses over the pairs of all ranks, as sums over this rank's pairs; the
loop divides by the pairs of all ranks.

Each rank scores its own B pairs against the G pairs of all ranks, one chunk of rows at
a time:

                 texts of all ranks          + the image's own text: positive
    images of    - - - - + - - - - - -       - any other text: negative
    this rank    - - - - - + - . - - -       . same caption as the own text: left out
                 - - - - - . - + - - -

A rank holds at most `logits_per_chunk` scores and two or four G x E arrays of features:
memory grows with the global batch, not with its square. A reduce-scatter returns the
gradients of the other ranks' features.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mm1 import dist

LOGITS_PER_CHUNK = 2**24
"""64 MB in fp32, in up to three arrays; at least one row of the global batch."""

RowLoss = Callable[
    [Float[Tensor, "b G"], Int[Tensor, "b 1"]],
    tuple[Float[Tensor, ""], Float[Tensor, "b G"]],
]
"""(scores, column of each row's positive) -> (loss, its gradient by score). May
overwrite the scores; -inf is left out."""


def softmax_contrastive_loss(
    images: Float[Tensor, "B E"],
    texts: Float[Tensor, "B E"],
    scale: Float[Tensor, "1"],
    caption_ids: Int[Tensor, " B"],
    *,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """CLIP's symmetric loss (Radford et al. 2021, arXiv:2103.00020), and the number of
    hits.

    `images` and `texts` have unit length, and every rank has equally many. Other pairs
    with the same caption are left out of the softmax. A hit is an image whose own text
    has the highest score of those left.
    """
    ids = (caption_ids, dist.all_gather(caption_ids))
    images = images.float()
    texts = texts.float()
    all_texts = dist.all_gather_with_grad(texts)
    all_images = dist.all_gather_with_grad(images)
    by_image, hits = _contrast(
        images, all_texts, scale, None, *ids, _softmax, logits_per_chunk
    )
    by_text, _ = _contrast(
        texts, all_images, scale, None, *ids, _softmax, logits_per_chunk
    )
    return (by_image + by_text) / 2, hits


def sigmoid_contrastive_loss(
    images: Float[Tensor, "B E"],
    texts: Float[Tensor, "B E"],
    scale: Float[Tensor, "1"],
    bias: Float[Tensor, "1"],
    caption_ids: Int[Tensor, " B"],
    *,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """SigLIP's loss (Zhai et al. 2023, arXiv:2303.15343), a binary one for each pair,
    and the number of hits.

    It is summed over all G texts per image, so divided by the number of images it is
    the paper's. Other pairs with the same caption are left out, so that each image has
    one positive, as in the softmax.
    """
    ids = (caption_ids, dist.all_gather(caption_ids))
    others = dist.all_gather_with_grad(texts.float())
    return _contrast(
        images.float(), others, scale, bias, *ids, _sigmoid, logits_per_chunk
    )


def _softmax(
    scores: Float[Tensor, "b G"], own: Int[Tensor, "b 1"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "b G"]]:
    log_share = scores.log_softmax(-1)
    loss = -log_share.gather(1, own).sum()
    share = log_share.exp_()
    return loss, share.scatter_add_(1, own, torch.full_like(share[:, :1], -1.0))


def _sigmoid(
    scores: Float[Tensor, "b G"], own: Int[Tensor, "b 1"]
) -> tuple[Float[Tensor, ""], Float[Tensor, "b G"]]:
    """-log sigmoid(score) of the positive, -log sigmoid(-score) of each negative."""
    scores.scatter_(1, own, -scores.gather(1, own))
    loss = F.softplus(scores).sum()
    share = scores.sigmoid_()
    return loss, share.scatter_(1, own, -share.gather(1, own))


def _contrast(
    mine: Float[Tensor, "B E"],
    others: Float[Tensor, "G E"],
    scale: Float[Tensor, "1"],
    bias: Float[Tensor, "1"] | None,
    ids: Int[Tensor, " B"],
    all_ids: Int[Tensor, " G"],
    row_loss: RowLoss,
    logits_per_chunk: int,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    rows = max(1, logits_per_chunk // len(others))
    factors = (scale.float(), None if bias is None else bias.float())
    learns = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (mine, others, *factors)
    )
    return _Contrast.apply(
        mine, others, *factors, ids, all_ids, row_loss, rows, learns
    )


class _Contrast(torch.autograd.Function):
    """The loss and its gradients, one chunk of rows at a time; the backward pass only
    scales them."""

    @staticmethod
    def forward(
        ctx, mine, others, scale, bias, ids, all_ids, row_loss, rows, learns
    ):
        own = (
            dist.rank() * len(mine)
            + torch.arange(len(mine), device=mine.device)[:, None]
        )
        total, hits, scale_grad, bias_grad = (
            mine.new_zeros(()) for _ in range(4)
        )
        mine_grad, others_grad = (
            torch.zeros_like(x if learns else x[:0]) for x in (mine, others)
        )
        for start in range(0, len(mine), rows):
            chunk = slice(start, start + rows)
            scores = (mine[chunk] @ others.T).mul_(scale)
            if bias is not None:
                scores += bias
            same = ids[chunk, None] == all_ids
            scores.masked_fill_(same.scatter_(1, own[chunk], False), -torch.inf)
            hits += (scores.argmax(-1, keepdim=True) == own[chunk]).sum()
            loss, gradient = row_loss(scores, own[chunk])
            total += loss
            if not learns:
                continue
            unscaled = gradient @ others
            mine_grad[chunk] = unscaled * scale
            others_grad.addmm_(gradient.T, mine[chunk])
            scale_grad += (unscaled * mine[chunk]).sum()
            bias_grad += gradient.sum()
        if learns:
            others_grad *= scale
            ctx.save_for_backward(
                mine_grad,
                others_grad,
                scale_grad[None],
                None if bias is None else bias_grad[None],
            )
        ctx.mark_non_differentiable(hits)
        return total, hits

    @staticmethod
    def backward(ctx, *grad_outputs):
        gradient, _ = grad_outputs
        return (
            *(None if g is None else gradient * g for g in ctx.saved_tensors),
            None,
            None,
            None,
            None,
            None,
        )
