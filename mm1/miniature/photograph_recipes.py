"""MM1 on real photographs, CIFAR-10's, for two CPU cores: encoder, language model and
MM1, from nothing.

    export MM1_CIFAR10=FOLDER
    python -m mm1.miniature.cifar.prepared data/photographs
    mm1 train photographs_encoder --out runs/photographs_encoder
    mm1 train photographs_decoder --out runs/photographs_decoder
    mm1 train photographs_pretrain --out runs/photographs_pretrain
"""

from mm1.eval.controls import with_controls
from mm1.eval.evaluator import Evaluator
from mm1.eval.zero_shot_classification import ZeroShotClassification
from mm1.loader.packed import PackedLoader
from mm1.loader.pairs import PairLoader
from mm1.miniature.photograph_benchmark import Photographs
from mm1.miniature.photograph_classes import PhotographClasses
from mm1.miniature.recipes import miniature_decoder, miniature_pretrain
from mm1.nn.clip import CLIP
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import LanguageModel
from mm1.nn.mm1 import MM1
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT
from mm1.recipes.pretrain import MIXTURE
from mm1.recipes.trainer_configs import (
    CLIPTrainerConfig,
    LanguageModelTrainerConfig,
    MM1TrainerConfig,
)
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

PHOTOGRAPHS = "data/photographs"
SHOTS = 4


def photograph_vit(image_size: int = 32, dim: int = 192) -> ViT.Config:
    """Four blocks on patches of 4 x 4 pixels."""
    return ViT.Config(
        image_size=image_size,
        patch_size=4,
        depth=4,
        dim=dim,
        num_heads=dim // 32,
        positions="sincos",
    )


def photographs_encoder(folder: str = PHOTOGRAPHS) -> CLIPTrainerConfig:
    """A ViT of 4 x 192 by contrast with bare labels, 64,000 draws of photographs.

    Hardware: 2 CPU cores.
    """
    return Trainer.Config(
        steps=500,
        model=CLIP.Config(
            encoder=photograph_vit(),
            text=TextTower.Config(max_length=4, depth=1, dim=64, num_heads=2),
            dim=64,
        ),
        loader=PairLoader.Config(
            sources=(f"{folder}/labels",), batch_size=128, context=4
        ),
        optimizer=AdamW.Config(peak_lr=1e-3),
        scheduler=WarmupCosine.Config(warmup_steps=50),
        benchmarks={
            "zero-shot": ZeroShotClassification.Config(
                data=PhotographClasses.Config(folder=folder),
                templates=("{}",),
                num_questions=1000,
            )
        },
        precision="fp32",
        checkpoint_every=100,
    )


def photographs_decoder(
    folder: str = PHOTOGRAPHS,
) -> LanguageModelTrainerConfig:
    """The miniature's language model, on facts and lists of the ten labels."""
    run = miniature_decoder()
    return Trainer.Config(
        steps=200,
        model=LanguageModel.Config(decoder=run.model.decoder),
        loader=PackedLoader.Config(
            sources={"text": f"{folder}/text"},
            weights={"text": 1.0},
            batch_size=8,
            micro_batch_size=8,
            sequence_length=128,
            packing_window=128,
        ),
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        precision="fp32",
        checkpoint_every=100,
    )


def photographs_pretrain(folder: str = PHOTOGRAPHS) -> MM1TrainerConfig:
    """Both of them and a connector of 4 tokens, on 45% pages, 45% captions, 10% text.

    Rate and its share for the encoder are those of the miniature, not tuned.
    """
    run = miniature_pretrain()
    names = {"interleaved": "pages", "captions": "captions", "text": "text"}
    return Trainer.Config(
        steps=300,
        model=MM1.Config(
            encoder=photograph_vit(),
            connector=AveragePool.Config(num_tokens=4),
            decoder=run.model.decoder,
        ),
        init={
            "encoder": "runs/photographs_encoder",
            "decoder": "runs/photographs_decoder",
        },
        loader=PackedLoader.Config(
            sources={name: f"{folder}/{kind}" for name, kind in names.items()},
            weights=dict(MIXTURE),
            batch_size=8,
            micro_batch_size=8,
            sequence_length=128,
            max_images=24,
            packing_window=128,
        ),
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        benchmarks=photograph_benchmarks(folder, 500),
        precision="fp32",
        checkpoint_every=100,
    )


def photograph_benchmarks(
    folder: str, num_questions: int
) -> dict[str, Evaluator.Config]:
    """Naming, lists with shots and their controls, captions."""
    tasks: dict[str, Evaluator.Config] = {
        "naming": Photographs.Config(
            task="naming", restricted=True, shots=(0,)
        ),
        "list": Photographs.Config(
            task="list", restricted=True, shots=(0, SHOTS)
        ),
        "captions": Photographs.Config(task="captions", shots=(0,)),
    }
    for each in tasks.values():
        assert isinstance(each, Photographs.Config)
        each.folder = folder
        each.num_questions = num_questions
        each.seed = 1
    return with_controls(tasks, ())
