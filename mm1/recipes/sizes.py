"""The sizes of decoders and encoders, and the law that sets the peak learning rate.

MM1 does not state the shapes of its decoders. Here 12 * depth * dim^2 gives the size in
the name, and the shapes follow Apple's public AXLearn models where one of that size
exists (see docs/paper.md).
"""

import math
from dataclasses import replace

from mm1.nn.decoder import Decoder
from mm1.nn.experts import MoE
from mm1.nn.vit import ViT
from mm1.train.layout import ParallelLayout

# name: (depth, dim, heads)
DECODERS = {
    "9M": (12, 256, 4),
    "85M": (12, 768, 12),
    "302M": (24, 1024, 16),
    "1.2B": (24, 2048, 32),
    "2.9B": (26, 3072, 24),
    "6.4B": (32, 4096, 32),
    "30B": (48, 7168, 56),
}

# name: (dense decoder, number of experts, interval of sparse blocks); each token is
# routed to two experts
MOE_DECODERS = {
    "3B-MoE": ("2.9B", 64, 2),
    "7B-MoE": ("6.4B", 32, 4),
}

# name: (depth, dim, heads, patch)
ENCODERS = {
    "S/16": (12, 384, 6, 16),
    "B/16": (12, 768, 12, 16),
    "L/14": (24, 1024, 16, 14),
    "H/14": (32, 1280, 16, 14),
}

# name: (depth, dim, heads); patches of 14 pixels
AIM_ENCODERS = {
    "600M": (24, 1536, 12),
    "1B": (24, 2048, 16),
    "3B": (24, 3072, 24),
}
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def law_peak_lr(num_params: float) -> float:
    """MM1's fit to 9M ... 1.2B (section 3.3): exp(-0.4214 ln N - 0.5535), with N the
    size of the decoder without embeddings."""
    return math.exp(-0.4214 * math.log(num_params) - 0.5535)


def decoder_size(name: str) -> float:
    """12 * depth * dim^2, the size that the law takes; for a mixture of experts that of
    its dense decoder."""
    depth, dim, _ = DECODERS[
        MOE_DECODERS[name][0] if name in MOE_DECODERS else name
    ]
    return 12.0 * depth * dim**2


def decoder_peak_lr(name: str) -> float:
    """The law's rate with three digits."""
    return float(f"{law_peak_lr(decoder_size(name)):.3g}")


def decoder_config(name: str) -> Decoder.Config:
    """A decoder of `DECODERS` or `MOE_DECODERS`, without grouped-query attention."""
    if name in MOE_DECODERS:
        dense, num_experts, every = MOE_DECODERS[name]
        return replace(
            decoder_config(dense),
            experts=MoE.Config(num_experts=num_experts, every=every),
        )
    depth, dim, heads = DECODERS[name]
    return Decoder.Config(depth=depth, dim=dim, num_heads=heads)


def layout_config(name: str) -> ParallelLayout.Config:
    """How ranks share a decoder of `DECODERS` or `MOE_DECODERS`: each holds one expert
    of each sparse block where there are as many, and several on fewer."""
    _, num_experts, _ = MOE_DECODERS.get(name, ("", 1, 0))
    return ParallelLayout.Config(experts=num_experts)


def encoder_config(name: str, image_size: int) -> ViT.Config:
    """An encoder of `ENCODERS`, for square images of `image_size` pixels."""
    depth, dim, heads, patch = ENCODERS[name]
    return ViT.Config(
        image_size=image_size,
        patch_size=patch,
        depth=depth,
        dim=dim,
        num_heads=heads,
    )


def aim_encoder_config(name: str, image_size: int = 224) -> ViT.Config:
    """An encoder of AIM (arXiv:2401.08541, table 1): fixed positions, normalised
    patches, hardly any biases."""
    depth, dim, heads = AIM_ENCODERS[name]
    return ViT.Config(
        image_size=image_size,
        depth=depth,
        dim=dim,
        num_heads=heads,
        positions="fixed",
        patch_norm=True,
        bias=False,
        norm_eps=1e-6,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
