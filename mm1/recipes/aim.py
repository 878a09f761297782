"""Image encoders, pre-trained by foretelling their images patch by patch (AIM, arXiv:2401.08541; MM1, table 1).

Shapes, head, rate, batch and numbers of steps are AIM's. What no source at hand confirms, and so counts as our choice:
betas (0.9, 0.95), decay 0.05, the length of the warm-up and a rate that ends at zero. Pictures are squashed to 224 px,
without the random crops and flips that are common for such encoders.
"""

from dataclasses import replace

from mm1.data.images_feed import Images
from mm1.eval.classes.miniature import MiniatureClasses
from mm1.eval.exam import Exam
from mm1.eval.probe import Probe
from mm1.nn.aim import AIM
from mm1.recipes.miniature import DEMO
from mm1.recipes.sizes import aim_encoder
from mm1.train.optimizer import Optimizer
from mm1.train.run import Run


def aim_600m() -> Run.Config:
    """AIM-600M: 224 px, 500k steps of 4,096 images."""
    return _paper("600M", steps=500_000)


def aim_1b() -> Run.Config:
    """AIM-1B: 224 px, 1.2M steps of 4,096 images."""
    return _paper("1B", steps=1_200_000)


def aim_3b() -> Run.Config:
    """AIM-3B: 224 px, 1.2M steps of 4,096 images."""
    return _paper("3B", steps=1_200_000)


def _paper(size: str, *, steps: int) -> Run.Config:
    return Run.Config(
        steps=steps,
        model=AIM.Config(encoder=aim_encoder(size)),
        feed=Images.Config(sources=("data/captions",), batch=4096, micro_batch=64, workers=8),
        optimizer=Optimizer.Config(peak_lr=1e-3, warmup=30_000, weight_decay=0.05, end_fraction=0.0),
        recompute=1,
        compile=True,
        held_out_every=10_000,
    )


def miniature_aim(folder: str = DEMO) -> Run.Config:
    """AIM in miniature: 8 x 8 patches of 4 pixels, on the pictures of the miniature world.

    Rate and steps are a first guess; `benchmarks/aim.py` probes what it learns.
    """
    encoder = replace(aim_encoder("600M", 32), patch_size=4, depth=4, dim=128, num_heads=4)
    return Run.Config(
        steps=500,
        model=AIM.Config(encoder=encoder, head_depth=2, head_dim=128),
        feed=Images.Config(sources=(f"{folder}/world/captions",), batch=64, workers=1),
        optimizer=Optimizer.Config(peak_lr=2e-3, warmup=50, weight_decay=0.05, end_fraction=0.0),
        benchmarks=_probes(),
        precision="fp32",
        checkpoint_every=100,
    )


def _probes() -> dict[str, Exam.Config]:
    probes: dict[str, Exam.Config] = {}
    for task in ("digit", "shape", "colour", "count"):
        data = MiniatureClasses.Config(task=task, num_train=1000, num_test=1000, seed=1)
        probes[task] = Probe.Config(data=data)
        probes[f"{task}, attentive"] = Probe.Config(data=data, kind="attentive")
    return probes
