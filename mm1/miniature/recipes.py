"""MM1 in miniature, for two CPU cores: the stages of `mm1 demo`, as ordinary recipes.

Small are the images (32 pixels, 4 x 4 patches, 4 tokens), the vocabulary (about 90
words) and the sequences (128 tokens). As in MM1 are the parts, the mixture 45/45/10,
packing with isolated documents, nothing frozen, the schedule, and fine-tuning at a
higher resolution with interpolated positions and sub-images. Training is in fp32,
because many CPUs only emulate bf16.
"""

from mm1.eval.controls import with_controls
from mm1.eval.evaluator import Evaluator
from mm1.eval.zero_shot_classification import ZeroShotClassification
from mm1.loader.packed import PackedLoader
from mm1.loader.pairs import PairLoader
from mm1.miniature.benchmarks import NEW_LABELS, Miniature
from mm1.miniature.classes import MiniatureClasses
from mm1.nn.clip import CLIP
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.decoder import Decoder, LanguageModel
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

DEMO = "runs/demo"
UNNAMED = ("colour", "shape", "count", "digit")
"""Tasks that only the shots tell, not the question; images as in pre-training."""
NAMED = ("colour", "shape", "digit", "small digit")
"""Tasks asked by name; the images show more than those of pre-training."""
TEMPLATES = {
    "digit": ("digit {}",),
    "shape": ("{}",),
    "colour": ("{}",),
    "count": ("{}",),
}
"""For zero-shot classification; captions have one to four such words in any order."""
DIGIT = "digit, asked"
SMALL = "small digit, asked"


def _encoder(image_size: int) -> ViT.Config:
    return ViT.Config(
        image_size=image_size,
        patch_size=8,
        depth=4,
        dim=128,
        num_heads=4,
        positions="sincos",
    )


def _decoder() -> Decoder.Config:
    return Decoder.Config(
        depth=3,
        dim=128,
        num_heads=4,
        hidden_dim=352,
        rope_base=1e3,
        qk_norm="head",
    )


def _model(image_size: int) -> MM1.Config:
    connector = CAbstractor.Config(num_tokens=4, dim=128, depth=1)
    return MM1.Config(
        encoder=_encoder(image_size), connector=connector, decoder=_decoder()
    )


def miniature_encoder(folder: str = DEMO) -> CLIPTrainerConfig:
    """The miniature's ViT, trained by contrast with captions.

    Learning rate and steps are tuned by hand to the demo's time.
    """
    return Trainer.Config(
        steps=180,
        model=CLIP.Config(
            encoder=_encoder(32),
            text=TextTower.Config(max_length=8, depth=2, dim=64, num_heads=2),
            dim=64,
        ),
        loader=PairLoader.Config(
            sources=(f"{folder}/world/captions",),
            batch_size=128,
            context=8,
            workers=1,
        ),
        optimizer=AdamW.Config(peak_lr=2e-3),
        scheduler=WarmupCosine.Config(warmup_steps=30),
        benchmarks=_zero_shot(),
        precision="fp32",
        checkpoint_every=50,
    )


def miniature_decoder(folder: str = DEMO) -> LanguageModelTrainerConfig:
    """The miniature's language model, on facts and lists of the world."""
    return Trainer.Config(
        steps=300,
        model=LanguageModel.Config(decoder=_decoder()),
        loader=PackedLoader.Config(
            sources={"text": f"{folder}/world/text"},
            weights={"text": 1.0},
            batch_size=8,
            micro_batch_size=8,
            sequence_length=128,
            packing_window=128,
        ),
        optimizer=AdamW.Config(peak_lr=3e-3),
        scheduler=WarmupCosine.Config(warmup_steps=20),
        benchmarks=_text_benchmarks(),
        shots=(0,),
        precision="fp32",
        checkpoint_every=50,
    )


def miniature_pretrain(folder: str = DEMO) -> MM1TrainerConfig:
    """Encoder, C-Abstractor and decoder together, on 45% pages, 45% captions, 10% text.

    MM1's law gives a peak rate of 2.1e-3 for a decoder of this size, and tuning by hand
    2e-3. The encoder learns at a fifth of that, because it is trained already and the
    connector is not.
    """
    names = {"interleaved": "pages", "captions": "captions", "text": "text"}
    return Trainer.Config(
        steps=230,
        model=_model(32),
        init={"encoder": f"{folder}/encoder", "decoder": f"{folder}/decoder"},
        loader=PackedLoader.Config(
            sources={
                name: f"{folder}/world/{kind}" for name, kind in names.items()
            },
            weights=dict(MIXTURE),
            batch_size=8,
            micro_batch_size=8,
            sequence_length=128,
            max_images=24,
            packing_window=128,
            workers=1,
        ),
        optimizer=AdamW.Config(peak_lr=2e-3, lr_factors={"encoder": 0.2}),
        scheduler=WarmupCosine.Config(warmup_steps=20),
        benchmarks=_benchmarks(),
        shots=(0, 2, 4, 8),
        precision="fp32",
        checkpoint_every=50,
        validate_every=115,
    )


def miniature_finetune(folder: str = DEMO) -> MM1TrainerConfig:
    """The pre-trained model on instructions, at 48 pixels, large images as sub-images.

    Positions are interpolated from 4 x 4 to 6 x 6 patches. Rate and steps are tuned by
    hand.
    """
    start = miniature_pretrain(folder)
    return Trainer.Config(
        steps=110,
        model=_model(48),
        init=dict.fromkeys(
            ("encoder", "connector", "decoder"), f"{folder}/pretrain"
        ),
        loader=PackedLoader.Config(
            sources={"instructions": f"{folder}/world/instructions"},
            weights={"instructions": 1.0},
            batch_size=4,
            micro_batch_size=4,
            sequence_length=128,
            max_images=32,
            packing_window=128,
            max_tiles=4,
            workers=1,
        ),
        optimizer=AdamW.Config(peak_lr=1e-3, lr_factors={"encoder": 0.3}),
        scheduler=WarmupCosine.Config(warmup_steps=10),
        benchmarks=start.benchmarks,
        shots=start.shots,
        precision="fp32",
        checkpoint_every=50,
    )


def _zero_shot() -> dict[str, Evaluator.Config]:
    """Classification by the words of captions, of images as in pre-training with unseen
    scenes and scans."""
    return {
        f"{task}, zero-shot": ZeroShotClassification.Config(
            data=MiniatureClasses.Config(task=task, seed=1, num_test=200),
            templates=templates,
        )
        for task, templates in TEMPLATES.items()
    }


def _text_benchmarks() -> dict[str, Evaluator.Config]:
    tasks = ("fact", "copy")
    return {
        f"{task} (text)": Miniature.Config(
            task=task, seed=1, num_questions=200, shots=(0,)
        )
        for task in tasks
    }


def _benchmarks() -> dict[str, Evaluator.Config]:
    """The same before and after fine-tuning."""
    benchmarks: dict[str, Evaluator.Config] = {}
    for task in UNNAMED:
        benchmarks[task] = Miniature.Config(
            task=task, named=False, seed=1, num_questions=100
        )
    benchmarks[NEW_LABELS] = Miniature.Config(
        task=NEW_LABELS,
        seed=1,
        num_questions=100,
        shots=(2, 8),
        restricted=True,
    )
    benchmarks = with_controls(benchmarks, (2, 4, 8))
    for task in NAMED:
        benchmarks[f"{task}, asked"] = Miniature.Config(
            task=task, grid="wide", seed=1, num_questions=200, shots=(0,)
        )
    return benchmarks | _text_benchmarks()
