"""Image encoders pre-trained to predict their images patch by patch (AIM,
arXiv:2401.08541; MM1, table 1).

Shapes, head, rate, batch and numbers of steps are AIM's. Our choices, since no source
at hand states them: betas (0.9, 0.95), weight decay 0.05, the length of the warm-up,
and a rate that decays to zero. Images are squashed to 224 px, without the random crops
and flips that are common for such encoders.
"""

from mm1.loader.image_only import ImageLoader
from mm1.nn.aim import AIM
from mm1.recipes.sizes import aim_encoder_config
from mm1.recipes.trainer_configs import AIMTrainerConfig
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer


def aim_600m() -> AIMTrainerConfig:
    """AIM-600M: 224 px, 500k steps of 4,096 images."""
    return _aim("600M", steps=500_000)


def aim_1b() -> AIMTrainerConfig:
    """AIM-1B: 224 px, 1.2M steps of 4,096 images."""
    return _aim("1B", steps=1_200_000)


def aim_3b() -> AIMTrainerConfig:
    """AIM-3B: 224 px, 1.2M steps of 4,096 images."""
    return _aim("3B", steps=1_200_000)


def _aim(size: str, *, steps: int) -> AIMTrainerConfig:
    return Trainer.Config(
        steps=steps,
        model=AIM.Config(encoder=aim_encoder_config(size)),
        loader=ImageLoader.Config(
            sources=("data/captions",),
            batch_size=4096,
            micro_batch_size=64,
            workers=8,
        ),
        optimizer=AdamW.Config(peak_lr=1e-3, weight_decay=0.05),
        scheduler=WarmupCosine.Config(warmup_steps=30_000, min_lr_ratio=0.0),
        activation_checkpointing="full",
        compile=True,
        validate_every=10_000,
    )
