"""The contrastive loss over two processes is that of one process with all pairs."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F

from mm1.nn.losses import contrastive


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(6, 8, generator=draw).requires_grad_() for _ in range(2))
    return images, texts, torch.tensor([5, 6, 7, 7, 8, 5])  # equal captions within a rank and across ranks


def losses(rows: slice) -> tuple[torch.Tensor, ...]:
    images, texts, ids = inputs()
    features = (F.normalize(x[rows], dim=-1) for x in (images, texts))
    loss, hits = contrastive(*features, torch.tensor([7.0]), ids[rows])
    loss.backward()
    assert images.grad is not None
    assert texts.grad is not None
    return loss.detach(), hits, images.grad[rows], texts.grad[rows]


def rank(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2)
    torch.save(losses(slice(3 * number, 3 * number + 3)), f"{folder}/{number}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    multiprocessing.spawn(rank, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in range(2))
    loss, hits, *gradients = losses(slice(0, 6))
    torch.testing.assert_close(first[0] + second[0], loss)
    assert first[1] + second[1] == hits
    for own, other, whole in zip(first[2:], second[2:], gradients, strict=True):
        torch.testing.assert_close(torch.cat((own, other)), whole)
