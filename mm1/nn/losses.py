"""Losses as sums over this rank's targets; the loop divides by the number of targets of
all ranks."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

LOGITS_PER_CHUNK = 2**26
"""256 MB in fp32."""


class NextTokenLoss(NamedTuple):
    """The loss of n targets; only `objective` has a gradient."""

    objective: Float[Tensor, ""]
    """Sum of nll + z_loss * log_sum_exp^2."""
    nll: Float[Tensor, " n"]
    """Negative log-likelihoods, in nats."""
    log_sum_exp: Float[Tensor, " n"]
    hit: Bool[Tensor, " n"]
    """Is the target the most likely token?"""


class VocabularyPart:
    """The tokens whose logits this rank computes: here all of them. With tensor
    parallelism it is a share of them, and what is said of all of them is reduced
    (`mm1.train.tensor_parallel`)."""

    def own_rows(self, head: Float[Tensor, "V D"]) -> Float[Tensor, "own D"]:
        """The rows of the output map for these tokens."""
        return head

    def places(
        self, targets: Int[Tensor, " n"]
    ) -> tuple[Int[Tensor, "n 1"], Float[Tensor, "n 1"]]:
        """The column of each target's logit, and 1; any column and 0 if it is another
        rank's."""
        places = targets[:, None]
        return places, torch.ones_like(places, dtype=torch.float32)

    def largest(
        self, logits: Float[Tensor, "n own"]
    ) -> tuple[Float[Tensor, "n 1"], Int[Tensor, "n 1"]]:
        """The largest logit, and the first token that has it."""
        largest, best = logits.max(-1, keepdim=True)
        return largest, best

    def sum(self, shares: Float[Tensor, "n any"]) -> Float[Tensor, "n any"]:
        """Adds up what comes from each rank's tokens."""
        return shares

    def gather(self, logits: Float[Tensor, "n own"]) -> Float[Tensor, "n V"]:
        """The logits of all tokens."""
        return logits


class ChunkLoss(nn.Module):
    """The losses of one chunk of targets, from logits that exist only here. It is a
    module so that it can be compiled (`Model.functions`)."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = VocabularyPart()

    def forward(
        self,
        hidden: Float[Tensor, "n D"],
        head: Float[Tensor, "own D"],
        targets: Int[Tensor, " n"],
        z_loss: float,
        learns: bool,
    ) -> tuple[
        Float[Tensor, " n"],
        Float[Tensor, " n"],
        Bool[Tensor, " n"],
        Float[Tensor, "n own"] | None,
    ]:
        """(nll, log-sum-exp, hit, slope): the slope is the gradient of nll + z_loss *
        log_sum_exp^2 with respect to the logits, None unless something `learns`."""
        logits = (hidden @ head.T).float()
        places, own = self.vocabulary.places(targets)
        largest, best = self.vocabulary.largest(logits)
        wanted = logits.gather(-1, places) * own
        exponentials = logits.sub_(largest).exp_()
        total = exponentials.sum(-1, keepdim=True)
        wanted, total = self.vocabulary.sum(
            torch.cat((wanted, total), -1)
        ).split(1, -1)
        log_sum = total.log() + largest
        slope = None
        if learns:
            # d nll = softmax - onehot;  d lse^2 = 2 lse softmax
            slope = exponentials.mul_((1 + 2 * z_loss * log_sum) / total)
            slope.scatter_add_(-1, places, -own)
            slope = slope.to(hidden.dtype)
        return (
            (log_sum - wanted)[:, 0],
            log_sum[:, 0],
            best[:, 0] == targets,
            slope,
        )


def next_token_loss(
    hidden: Float[Tensor, "n D"],
    head: Float[Tensor, "V D"],
    targets: Int[Tensor, " n"],
    *,
    z_loss: float = 0.0,
    logits_per_chunk: int = LOGITS_PER_CHUNK,
    chunk_loss: ChunkLoss | None = None,
) -> NextTokenLoss:
    """Cross-entropy of `hidden @ head.T` with MM1's z-loss, without materialising all n
    x V logits.

    The softmax is computed in fp32, one chunk of targets at a time, and the gradients
    with it, so that the backward pass only scales them. The caller leaves out tokens
    that are not targets. `chunk_loss` may be a compiled `ChunkLoss`.
    """
    chunk_loss = chunk_loss or ChunkLoss()
    head = chunk_loss.vocabulary.own_rows(head)
    rows = max(1, logits_per_chunk // len(head))
    learns = [
        x.requires_grad and torch.is_grad_enabled() for x in (hidden, head)
    ]
    return NextTokenLoss(
        *_NextTokenLoss.apply(
            hidden,
            head,
            targets,
            z_loss,
            rows,
            learns,
            chunk_loss,
        )
    )


class _NextTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, targets, z_loss, rows, learns, chunk_loss):
        # Module hooks, such as those of torch's FLOP counter, look for a graph.
        hidden = hidden.detach()
        head = head.detach()
        hidden_grad = torch.empty_like(hidden) if learns[0] else None
        head_grad = (
            torch.zeros_like(head, dtype=torch.float32) if learns[1] else None
        )
        nll = torch.empty(len(targets), device=hidden.device)
        lse = torch.empty_like(nll)
        hit = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        for start in range(0, len(targets), rows):
            chunk = slice(start, start + rows)
            nll[chunk], lse[chunk], hit[chunk], slope = chunk_loss(
                hidden[chunk], head, targets[chunk], z_loss, any(learns)
            )
            if hidden_grad is not None:
                hidden_grad[chunk] = slope @ head
            if head_grad is not None:
                head_grad += slope.T @ hidden[chunk]
        if hidden_grad is not None:
            hidden_grad = chunk_loss.vocabulary.sum(hidden_grad)
        ctx.save_for_backward(
            hidden_grad, None if head_grad is None else head_grad.to(head.dtype)
        )
        ctx.mark_non_differentiable(nll, lse, hit)
        return (nll + z_loss * lse.square()).sum(), nll, lse, hit

    @staticmethod
    def backward(ctx, *grad_outputs):
        gradient = grad_outputs[0]
        hidden_grad, head_grad = ctx.saved_tensors
        scaled = (
            None if g is None else g * gradient.to(g.dtype)
            for g in (hidden_grad, head_grad)
        )
        return *scaled, None, None, None, None, None


def patch_targets(
    patches: Float[Tensor, "N P pixels"], *, eps: float = 1e-6
) -> Float[Tensor, "N P pixels"]:
    """Pixels normalised by the mean and standard deviation of their patch (MAE,
    arXiv:2111.06377, section 3), in fp32.

    `eps` is added to the variance, so a patch of one colour becomes zeros.
    """
    patches = patches.float()
    variance, mean = torch.var_mean(patches, -1, correction=0, keepdim=True)
    return (patches - mean) * (variance + eps).rsqrt()


def patch_regression_loss(
    predictions: Float[Tensor, "N steps pixels"],
    targets: Float[Tensor, "N P pixels"],
    prefixes: Int[Tensor, " N"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The sum and the number of squared errors (means over pixels) of the patches after
    each image's prefix.

    Prediction i is of patch i + 1, in raster order.
    """
    errors = (predictions.float() - targets[:, 1:].float()).square().mean(-1)
    index = torch.arange(1, targets.shape[1], device=targets.device)
    loss_mask = index >= prefixes[:, None]
    return (errors * loss_mask).sum(), loss_mask.sum().float()
