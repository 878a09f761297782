"""Image encoders, pre-trained by contrast with their captions (CLIP)."""

from mm1.data.pairs import Pairs
from mm1.nn.clip import CLIP
from mm1.nn.vit import ViT
from mm1.train.optimizer import Optimizer
from mm1.train.run import Run


def clip_small() -> Run.Config:
    """The encoder of `pretrain_small`, on your own captions, on a laptop: 96 px, batch 128."""
    return Run.Config(
        steps=500,
        model=CLIP.Config(encoder=ViT.Config(image_size=96, patch_size=12, depth=4, dim=192, num_heads=4)),
        feed=Pairs.Config(sources=("data/captions",), batch=128, context=32),
        optimizer=Optimizer.Config(peak_lr=1e-3, warmup=50),
        precision="fp32",
        checkpoint_every=100,
    )
