"""Contrast over two processes is that of one process with all pairs: the losses alone,
and a whole tiny CLIP."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from ranks import on_ranks

from mm1 import dist
from mm1.batch import PairBatch
from mm1.nn.clip import CLIP
from mm1.nn.contrastive import (
    sigmoid_contrastive_loss,
    softmax_contrastive_loss,
)
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

PAIRS = 6
WORLD = 2
EQUAL = torch.tensor([5, 6, 7, 7, 8, 5])
"""Captions of six pairs: equal ones within the second rank's and across ranks."""
LOSSES: tuple[Literal["softmax", "sigmoid"], ...] = ("softmax", "sigmoid")


def of_features(kind: str, rows: slice) -> dict[str, torch.Tensor]:
    """Loss, hits and gradients of these rows' features, and of scale and bias."""
    draw = torch.Generator().manual_seed(0)
    images, texts = (
        torch.randn(PAIRS, 8, generator=draw).requires_grad_() for _ in range(2)
    )
    scale, bias = (
        torch.tensor([value], requires_grad=True) for value in (7.0, -3.0)
    )
    features = [F.normalize(x[rows], dim=-1) for x in (images, texts)]
    ids = EQUAL[rows]
    sizes: dict[str, Any] = {
        "logits_per_chunk": 2 * PAIRS
    }  # chunks of two rows
    if kind == "softmax":
        loss, hits = softmax_contrastive_loss(*features, scale, ids, **sizes)
    else:
        loss, hits = sigmoid_contrastive_loss(
            *features, scale, bias, ids, **sizes
        )
    loss.backward()
    inputs = {"images": images, "texts": texts, "scale": scale} | (
        {"bias": bias} if kind == "sigmoid" else {}
    )
    return {"loss": loss.detach(), "hits": hits} | {
        name: x.grad for name, x in inputs.items() if x.grad is not None
    }


def of_a_model(
    kind: Literal["softmax", "sigmoid"], rows: slice
) -> dict[str, torch.Tensor]:
    """Every parameter's gradient, with the loop's division by the pairs of all
    ranks."""
    torch.manual_seed(0)
    model = CLIP.Config(
        encoder=ViT.Config(
            image_size=8,
            patch_size=4,
            depth=1,
            dim=16,
            num_heads=2,
            class_token=True,
        ),
        text=TextTower.Config(max_length=5, depth=1, dim=16, num_heads=2),
        dim=8,
        loss=kind,
    ).build(vocab_size=11)
    batch = PairBatch(
        images=torch.randint(256, (PAIRS, 3, 8, 8), dtype=torch.uint8)[rows],
        tokens=torch.randint(11, (PAIRS, 5))[rows],
        lengths=torch.tensor([2, 3, 4, 5, 3, 2])[rows],
        caption_ids=EQUAL[rows],
    )
    (model(batch).objective / PAIRS).backward()
    return {
        name: p.grad
        for name, p in model.named_parameters()
        if p.grad is not None
    }


CASES: dict[str, Callable[[Any, slice], dict[str, torch.Tensor]]] = {
    "features": of_features,
    "model": of_a_model,
}


def rank(folder: Path) -> None:
    dist.start()
    number = dist.rank()
    rows = slice(number * PAIRS // WORLD, (number + 1) * PAIRS // WORLD)
    found = {
        case: {kind: run(kind, rows) for kind in LOSSES}
        for case, run in CASES.items()
    }
    torch.save(found, folder / f"{number}.pt")


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """What ranks add up to is what one process gives; each row's features get their
    gradient on one rank alone.

    fp32 sums in another order: worst measured 4.8e-7 of a tensor's largest value.
    """
    on_ranks(WORLD, rank, tmp_path)
    ranks = [
        torch.load(tmp_path / f"{number}.pt", weights_only=True)
        for number in range(WORLD)
    ]
    for case, run in CASES.items():
        for kind in LOSSES:
            whole = run(kind, slice(0, PAIRS))
            assert len(whole) > 4
            for name, wanted in whole.items():
                parts = [each[case][kind][name] for each in ranks]
                error = (sum(parts) - wanted).abs().max() / wanted.abs().max()
                assert error < 5e-6, (case, kind, name)
