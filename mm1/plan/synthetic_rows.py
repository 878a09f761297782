"""A micro-batch of the size that a plan assumes, without a data set: random tokens and
pixels in documents of equal lengths."""

import torch

from mm1.batch import IGNORE, PackedBatch
from mm1.nn.model import Model
from mm1.plan.roofline import MicroBatchWork


def synthetic_rows(
    work: MicroBatchWork,
    model: Model,
    *,
    vocab_size: int,
    max_seqlen: int,
    seed: int,
) -> PackedBatch:
    """On the CPU. `max_seqlen` is that of a loader's batch: the length of a row."""
    random = torch.Generator().manual_seed(seed)
    num_tokens = work.num_tokens
    lengths = torch.tensor([0, *work.documents])
    starts = torch.arange(work.num_images) * (
        num_tokens // max(1, work.num_images)
    )
    slots = starts[:, None] + torch.arange(model.tokens_per_image)
    tokens = torch.randint(vocab_size, (num_tokens,), generator=random)
    targets = tokens.roll(-1)
    targets[slots.flatten()] = IGNORE
    size = model.image_input.size if model.image_input else (1, 1)
    return PackedBatch(
        tokens=tokens,
        targets=targets,
        positions=torch.cat([torch.arange(n) for n in work.documents]),
        sources=torch.zeros(num_tokens, dtype=torch.int64),
        cu_seqlens=lengths.cumsum(0).int(),
        images=torch.randint(
            256,
            (max(1, work.num_encoded), 3, *size),
            dtype=torch.uint8,
            generator=random,
        ),
        slots=slots,
        max_seqlen=max_seqlen,
        num_targets=work.num_targets,
        num_padding=0,
        num_pairs=work.num_pairs,
        source_names=("synthetic",),
    )
