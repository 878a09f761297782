"""Small packed batches and models for the tests of this folder."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from mm1.batch import IGNORE, PackedBatch
from mm1.nn.attention import PackedAttention
from mm1.nn.connectors import Connector
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.mm1 import MM1
from mm1.nn.vit import ViT

VOCABULARY = 31
PLACES = 4
DECODER = Decoder.Config(
    depth=2, dim=24, num_heads=4, num_kv_heads=2, hidden_dim=40, qk_norm="head"
)
IMAGE_SIZE = (8, 12)
ENCODER = ViT.Config(
    image_size=IMAGE_SIZE, patch_size=2, depth=2, dim=16, num_heads=2
)


def language_model(
    *, z_loss: float = 0.0, decoder: Decoder.Config = DECODER
) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel.Config(decoder=decoder, z_loss=z_loss).build(
        vocab_size=VOCABULARY
    )


def multimodal_model(
    connector: Connector.Config | None = None,
    *,
    encoder: ViT.Config = ENCODER,
    decoder: Decoder.Config = DECODER,
) -> MM1:
    torch.manual_seed(0)
    connector = connector or AveragePool.Config(num_tokens=PLACES)
    return MM1.Config(
        encoder=encoder, connector=connector, decoder=decoder
    ).build(vocab_size=VOCABULARY)


def packed(
    lengths: Sequence[int],
    *,
    num_pictures: int = 0,
    num_places: int = PLACES,
    image_size: tuple[int, int] = IMAGE_SIZE,
    seed: int = 0,
) -> PackedBatch:
    """Random documents of these lengths; each of the first `num_pictures` starts with
    the tokens of an image."""
    draw = torch.Generator().manual_seed(seed)
    starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    tokens = torch.randint(VOCABULARY, (starts[-1],), generator=draw)
    targets = tokens.roll(-1)
    slots = torch.tensor(starts[:num_pictures], dtype=torch.int64)[
        :, None
    ] + torch.arange(num_places)
    targets[torch.tensor(starts[1:]) - 1] = IGNORE
    targets[slots.flatten()[: max(0, slots.numel() - 1)]] = IGNORE
    return PackedBatch(
        tokens=tokens,
        targets=targets,
        positions=torch.cat([torch.arange(n) for n in lengths]),
        sources=torch.arange(len(tokens)) % 2,
        cu_seqlens=torch.tensor(starts, dtype=torch.int32),
        images=torch.randint(
            256,
            (max(1, num_pictures), 3, *image_size),
            generator=draw,
            dtype=torch.uint8,
        ),
        slots=slots,
        max_seqlen=max(lengths),
        num_targets=int((targets != IGNORE).sum()),
        num_padding=0,
        num_pairs=sum(n * (n + 1) // 2 for n in lengths),
        source_names=("captions", "text"),
    )


def alone(batch: PackedBatch, document: int) -> PackedBatch:
    """One document of a packed batch, with its image if it has one."""
    start, stop = batch.cu_seqlens[document : document + 2].tolist()
    has_picture = document < len(batch.slots)
    targets = batch.targets[start:stop]
    return replace(
        batch,
        tokens=batch.tokens[start:stop],
        targets=targets,
        positions=batch.positions[start:stop],
        sources=batch.sources[start:stop],
        cu_seqlens=torch.tensor([0, stop - start], dtype=torch.int32),
        images=(
            batch.images[document : document + 1]
            if has_picture
            else batch.images[:1]
        ),
        slots=(
            batch.slots[document : document + 1] - start
            if has_picture
            else batch.slots[:0]
        ),
        max_seqlen=stop - start,
        num_targets=int((targets != IGNORE).sum()),
    )


def hidden(model: LanguageModel, batch: PackedBatch) -> Tensor:
    """The decoder's output for every token."""
    return model.decoder(
        model.inputs(batch),
        batch.positions,
        PackedAttention(batch.cu_seqlens, batch.max_seqlen),
    )


def without_gradient(module: torch.nn.Module) -> list[str]:
    """Parameters whose gradient is missing or all zeros."""
    return [
        name
        for name, p in module.named_parameters()
        if p.grad is None or not p.grad.any()
    ]


def reset_parameters(model: nn.Module) -> None:
    """Initialise every parameter, as after `to_empty` of a model on the meta device."""
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
