"""MM1's findings about image encoders, on real photographs: CIFAR-10's.

    export MM1_CIFAR10=FOLDER
    mm1 study photographs --out runs/photographs

Everything is trained from nothing. Encoders take 64,000 draws of training photographs,
MM1 some 36,000, in captions and on pages; it is asked about test photographs.
"""

from dataclasses import replace

from mm1.eval.controls import control_name
from mm1.loader.image_only import ImageLoader
from mm1.miniature.ablations import without_workers
from mm1.miniature.cifar.prepared import prepare_photographs
from mm1.miniature.photograph_recipes import (
    SHOTS,
    photograph_vit,
    photographs_decoder,
    photographs_encoder,
    photographs_pretrain,
)
from mm1.miniature.stated import STATED
from mm1.nn.aim import AIM
from mm1.nn.vit import ViT
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better, mean_score
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

PHOTOGRAPH_SEEDS = (61, 62, 63, 64, 65, 66)
BASE = "32 px, 192 wide, contrast, 4 tokens"
NARROW = 96
ONE_TOKEN_SEQUENCE = 80
"""So that a step holds about as many photographs as with 4 tokens, in 128."""
NAMING = "naming"
WITHOUT_SHOTS = {
    NAMING: Measure(
        read=mean_score((NAMING,), 0),
        about="the likeliest of ten labels after 'a photo of', without shots",
    ),
    "captions": Measure(
        read=mean_score(("captions",), 0),
        about="captions with the right label and no other, any word counted",
    ),
}
LIST = "list"


def photographs() -> Study:
    """Encoders and tokens on real photographs, CIFAR-10's: pixels, width, contrast,
    tokens."""
    return Study(
        title="Real photographs",
        about="CIFAR-10, 32 x 32 pixels, ten classes; chance is 10%. Encoders are"
        " trained on 64,000 draws from some 49,000 photographs, by contrast with their"
        " bare labels or by reconstruction. MM1 goes on from them and from a language"
        " model of the labels' words: 300 steps of captions, pages of several"
        " photographs, and text. Each step holds about as many photographs. The rate of"
        " reconstruction is not tuned. Asked are 500 test photographs.",
        rows=_rows,
        measures=_measures(),
        lessons=(
            better("More pixels help to name", NAMING, BASE, "16 px"),
            better("A wider encoder helps to name", NAMING, BASE, "96 wide"),
            better(
                "Contrast beats reconstruction in naming",
                NAMING,
                BASE,
                "reconstruction",
            ),
            better("More tokens help to name", NAMING, BASE, "1 token"),
        ),
        prepare=lambda folder: prepare_photographs(folder / "photographs"),
        seeds=PHOTOGRAPH_SEEDS,
        stated=STATED,
    )


def _measures() -> dict[str, Measure]:
    measures = dict(WITHOUT_SHOTS)
    for shots in (0, SHOTS):
        measures[f"{LIST}, {shots} shots"] = Measure(
            read=mean_score((LIST,), shots),
            about="the likeliest of ten labels after the bare photograph",
        )
    for control in ("wrong labels", "labels alone", "moved labels"):
        measures[f"{LIST}, {control}"] = Measure(
            read=mean_score((control_name(LIST, control),), SHOTS),
            about=f"the same with {SHOTS} shots, changed",
        )
    return measures


def _rows(plan: StudyPlan, seed: int) -> dict[str, str]:
    base = photograph_vit()
    small = photograph_vit(image_size=16)
    narrow = photograph_vit(dim=NARROW)
    # positions and the norm of patches as AIM has them
    aim = replace(base, positions="fixed", patch_norm=True, bias=False)
    runs = {
        BASE: _pretrain(plan, seed, base, _add_contrast(plan, seed, base)),
        "16 px": _pretrain(plan, seed, small, _add_contrast(plan, seed, small)),
        "96 wide": _pretrain(
            plan, seed, narrow, _add_contrast(plan, seed, narrow)
        ),
        "reconstruction": _pretrain(
            plan, seed, aim, _add_reconstruction(plan, seed, aim)
        ),
        "1 token": _pretrain(plan, seed, base, _add_contrast(plan, seed, base)),
    }
    single = runs["1 token"]
    single.model.connector.num_tokens = 1
    single.loader.sequence_length = ONE_TOKEN_SEQUENCE
    return {row: plan.add("pretrain", run) for row, run in runs.items()}


def _data(plan: StudyPlan) -> str:
    return str(plan.folder / "photographs")


def _add_contrast(plan: StudyPlan, seed: int, vit: ViT.Config) -> str:
    run = without_workers(photographs_encoder(_data(plan)), seed)
    run.model.encoder = vit
    return plan.add("encoder", run)


def _add_reconstruction(plan: StudyPlan, seed: int, vit: ViT.Config) -> str:
    """Sees as many photographs as CLIP, in batches of half the size."""
    clip = photographs_encoder(_data(plan))
    run = Trainer.Config(
        steps=2 * clip.steps,
        model=AIM.Config(encoder=vit, head_depth=2, head_dim=128),
        loader=ImageLoader.Config(
            sources=clip.loader.sources, batch_size=clip.loader.batch_size // 2
        ),
        optimizer=AdamW.Config(peak_lr=1e-3, weight_decay=0.05),
        scheduler=WarmupCosine.Config(warmup_steps=50, min_lr_ratio=0.0),
        precision="fp32",
    )
    return plan.add("aim", without_workers(run, seed))


def _pretrain(
    plan: StudyPlan, seed: int, vit: ViT.Config, encoder: str
) -> MM1TrainerConfig:
    run = without_workers(photographs_pretrain(_data(plan)), seed)
    decoder = without_workers(photographs_decoder(_data(plan)), seed)
    run.model.encoder = vit
    run.init = {"encoder": encoder, "decoder": plan.add("decoder", decoder)}
    return run
