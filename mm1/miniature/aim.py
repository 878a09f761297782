"""AIM in miniature, with probes of what its encoder learns."""

from dataclasses import replace

from mm1.eval.evaluator import Evaluator
from mm1.eval.probe import Probe
from mm1.loader.image_only import ImageLoader
from mm1.miniature.classes import MiniatureClasses
from mm1.miniature.recipes import DEMO
from mm1.nn.aim import AIM
from mm1.recipes.sizes import aim_encoder_config
from mm1.recipes.trainer_configs import AIMTrainerConfig
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer


def miniature_aim(folder: str = DEMO) -> AIMTrainerConfig:
    """AIM in miniature: 8 x 8 patches of 4 pixels, on images of the miniature world.

    Rate and steps are a first guess; `benchmarks/aim.py` probes what it learns.
    """
    encoder = replace(
        aim_encoder_config("600M", 32),
        patch_size=4,
        depth=4,
        dim=128,
        num_heads=4,
    )
    return Trainer.Config(
        steps=500,
        model=AIM.Config(encoder=encoder, head_depth=2, head_dim=128),
        loader=ImageLoader.Config(
            sources=(f"{folder}/world/captions",), batch_size=64, workers=1
        ),
        optimizer=AdamW.Config(peak_lr=2e-3, weight_decay=0.05),
        scheduler=WarmupCosine.Config(warmup_steps=50, min_lr_ratio=0.0),
        benchmarks=_probes(),
        precision="fp32",
        checkpoint_every=100,
    )


def _probes() -> dict[str, Evaluator.Config]:
    probes: dict[str, Evaluator.Config] = {}
    for task in ("digit", "shape", "colour", "count"):
        data = MiniatureClasses.Config(
            task=task, num_train=1000, num_test=1000, seed=1
        )
        probes[task] = Probe.Config(data=data)
        probes[f"{task}, attentive"] = Probe.Config(data=data, kind="attentive")
    return probes
