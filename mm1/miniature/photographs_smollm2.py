"""Does a published language model name real photographs, and does it keep its text?
CIFAR-10's photographs and SmolLM2-135M (Allal et al. 2025, arXiv:2502.02737).

    mm1 import HuggingFaceTB/SmolLM2-135M --out runs/smollm2
    export MM1_CIFAR10=FOLDER MM1_TEXT=FOLDER    # text: files of `mm1 prepare text`
    mm1 study photographs_smollm2 --out runs/photographs_smollm2 --seeds 67

First the encoder and a connector learn, with the language model frozen; then everything
does. With the language model frozen, the loss on text is the one it came with.
"""

import os
from pathlib import Path

from mm1.config import UserError
from mm1.data.tokenizer import TOKENIZER
from mm1.loader.packed import PackedLoader
from mm1.miniature.ablations import without_workers
from mm1.miniature.cifar.prepared import prepare_photographs
from mm1.miniature.photograph_benchmark import Photographs
from mm1.miniature.photograph_recipes import (
    photograph_vit,
    photographs_encoder,
)
from mm1.miniature.photographs import NAMING, WITHOUT_SHOTS
from mm1.miniature.stated import STATED
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.decoder import Decoder
from mm1.nn.mm1 import MM1
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources.text import Texts
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.runs.results import RunFolder
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

TEXT_VARIABLE = "MM1_TEXT"
SMOLLM2 = "runs/smollm2"
SMOLLM2_SEEDS = (67, 68, 69)
STAGE_STEPS = 100
TEXT_VALIDATION = 0.01
TEXT_LOSS = "text loss"
FROZEN = "frozen"
TRAINED = "then trained"
NO_TEXT = "then trained, without text"
TEXT_SHARES = {FROZEN: 0.1, TRAINED: 0.1, NO_TEXT: 0.0}
"""Row -> share of text in its second stage; the rest is half captions, half pages."""


def photographs_smollm2() -> Study:
    """Does SmolLM2-135M name real photographs, CIFAR-10's, and does it keep its
    text?"""
    return Study(
        title="Real photographs and a published language model",
        about="SmolLM2-135M, a ViT of 4 x 192 that was trained by contrast with the"
        f" labels of CIFAR-10, 4 tokens a photograph. {STAGE_STEPS} steps of 4"
        " sequences of 128 tokens with the language model frozen, then as many more"
        " with it frozen or trained. Text is 10% of the second stage unless stated"
        " otherwise. Asked are 200 test photographs; chance is 10%. With the language"
        " model frozen the loss on text is that of the published one.",
        rows=_rows,
        measures={
            **WITHOUT_SHOTS,
            TEXT_LOSS: Measure(
                read=_text_loss,
                about="minus the loss a token on held-out text",
                percent=False,
            ),
        },
        lessons=(
            better(
                "Training the language model helps to name",
                NAMING,
                TRAINED,
                FROZEN,
            ),
            better(
                "A tenth of text keeps text loss", TEXT_LOSS, TRAINED, NO_TEXT
            ),
            better(
                "With a tenth of text, text gets no worse",
                TEXT_LOSS,
                TRAINED,
                FROZEN,
            ),
        ),
        prepare=_prepare,
        seeds=SMOLLM2_SEEDS,
        stated=STATED,
    )


def _text_loss(run: RunFolder) -> float | None:
    curve = run.curve("validation/text")
    return -curve[-1][1] if curve else None


def _prepare(folder: Path) -> None:
    """Raises UserError for what is missing: the language model, text, CIFAR-10."""
    tokenizer = Path(SMOLLM2) / TOKENIZER
    if not tokenizer.is_file():
        raise UserError(
            f"there is no {tokenizer}: import the language model (`mm1 import"
            f" HuggingFaceTB/SmolLM2-135M --out {SMOLLM2}`)"
        )
    given = os.environ.get(TEXT_VARIABLE)
    if not given:
        raise UserError(
            "there is no text to train and measure the language model on: name a"
            " folder of JSON lines with the field text, or of what else the source text"
            f" of `mm1 prepare` reads, by the environment variable {TEXT_VARIABLE}"
        )
    data = folder / "photographs-smollm2"
    prepare_photographs(data, tokenizer)
    config = Preparation.Config(
        source=Texts.Config(), validation=TEXT_VALIDATION
    )
    prepare(config, [Path(given)], data / "real-text", tokenizer)


def _rows(plan: StudyPlan, seed: int) -> dict[str, str]:
    data = str(plan.folder / "photographs-smollm2")
    encoder = plan.add(
        "encoder", without_workers(photographs_encoder(data), seed)
    )
    first = _stage(data, seed, text_share=0.0)
    first.init = {"encoder": encoder, "decoder": SMOLLM2}
    first.frozen = ("decoder",)
    start = plan.add("connector", first)
    rows = {}
    for row, share in TEXT_SHARES.items():
        run = _stage(data, seed, text_share=share)
        run.init = dict.fromkeys(("encoder", "connector", "decoder"), start)
        run.frozen = ("decoder",) if row == FROZEN else ()
        run.benchmarks = {
            NAMING: Photographs.Config(
                folder=data,
                task="naming",
                restricted=True,
                shots=(0,),
                seed=1,
                num_questions=200,
            ),
            "captions": Photographs.Config(
                folder=data,
                task="captions",
                shots=(0,),
                seed=1,
                num_questions=200,
            ),
        }
        rows[row] = plan.add("pretrain", run)
    return rows


def _stage(data: str, seed: int, *, text_share: float) -> MM1TrainerConfig:
    """Rates are first guesses: the decoder's is 2e-4."""
    images = (1 - text_share) / 2
    run = Trainer.Config(
        steps=STAGE_STEPS,
        model=MM1.Config(
            encoder=photograph_vit(),
            connector=AveragePool.Config(num_tokens=4),
            decoder=_smollm2_135m(),
        ),
        loader=PackedLoader.Config(
            sources={
                "captions": f"{data}/captions",
                "interleaved": f"{data}/pages",
                "text": f"{data}/real-text",
            },
            weights={
                "captions": images,
                "interleaved": images,
                "text": text_share,
            },
            batch_size=4,
            micro_batch_size=4,
            sequence_length=128,
            max_images=24,
            packing_window=128,
        ),
        optimizer=AdamW.Config(
            peak_lr=1e-3, lr_factors={"encoder": 0.2, "decoder": 0.2}
        ),
        scheduler=WarmupCosine.Config(warmup_steps=10),
        precision="fp32",
    )
    return without_workers(run, seed)


def _smollm2_135m() -> Decoder.Config:
    """The shape of SmolLM2-135M."""
    return Decoder.Config(
        depth=30,
        dim=576,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        hidden_dim=1536,
        rope_base=1e5,
    )
