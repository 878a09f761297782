"""Moving and pinning batches."""

import pytest
import torch

from mm1.batch import ImageBatch, PackedBatch, move


def packed() -> PackedBatch:
    line = torch.arange(4)
    return PackedBatch(
        tokens=line,
        targets=line,
        positions=line,
        sources=torch.zeros_like(line),
        cu_seqlens=torch.tensor([0, 4], dtype=torch.int32),
        images=torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        slots=torch.zeros(1, 1, dtype=torch.int64),
        max_seqlen=4,
        num_targets=4,
        num_padding=0,
        num_pairs=10,
        source_names=("text",),
    )


def test_moving_a_batch_moves_its_tensors_and_keeps_the_rest() -> None:
    batch = move(packed(), "meta")
    assert all(t.is_meta for t in batch.tensors().values())
    assert set(batch.tensors()) == {
        "tokens",
        "targets",
        "positions",
        "sources",
        "cu_seqlens",
        "images",
        "slots",
    }
    assert (batch.num_pairs, batch.source_names) == (10, ("text",))
    assert (
        len(
            move(
                ImageBatch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8)), "meta"
            ).images
        )
        == 2
    )


@pytest.mark.gpu
def test_a_pinned_batch_is_in_page_locked_memory() -> None:
    assert all(t.is_pinned() for t in packed().pin_memory().tensors().values())  # type: ignore[attr-defined]
