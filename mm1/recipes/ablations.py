"""MM1's ablations of pre-training (section 3) at full size, one study for each figure,
from `pretrain_ablation_base`. Their miniatures are in `mm1/miniature/ablations.py`.

The rows start from `runs/clip_l14_336`, `runs/language_model_1b` and so on (those of
`encoder_loss` from `runs/language_model_3b`), each trained by the recipe of that name
or imported (`mm1 import`), and the benchmarks need their files:

    mm1 study mixture --out runs/mixture --seeds 0 \\
        --launcher "srun --nodes 8 --gpus-per-node 8 ..." \\
        pretrain:benchmarks.coco.annotations=data/coco/test.json ...

The paper's numbers are second-hand: they come from public notes on it (docs/paper.md).
"""

from collections.abc import Callable
from dataclasses import replace

from mm1.eval.benchmarks.coco import Coco
from mm1.eval.benchmarks.vqa import Vqa
from mm1.eval.evaluator import Evaluator
from mm1.nn.connectors import Connector
from mm1.nn.connectors.attention_pool import AttentionPool
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.recipes import figures
from mm1.recipes.figures import FEW, SECOND_HAND, TEXT, ZERO, Scale
from mm1.recipes.pretrain import pretrain_3b, pretrain_ablation_base
from mm1.recipes.sizes import aim_encoder_config, encoder_config
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.runs.results import RunFolder
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better, mean_score
from mm1.train.origins import RANDOM

SYNTHETIC = 0.07
"""Share of the captions: VeCap's in MM1."""

CONNECTORS: dict[str, Callable[[int], Connector.Config]] = {
    "average": lambda k: AveragePool.Config(num_tokens=k),
    "attention": lambda k: AttentionPool.Config(num_tokens=k),
    "C-Abstractor": lambda k: CAbstractor.Config(num_tokens=k),
}


def _base(plan: StudyPlan, seed: int, image_size: int) -> MM1TrainerConfig:
    return replace(
        pretrain_ablation_base(image_size),
        seed=seed,
        shots=(0, 4, 8),
        benchmarks=_benchmarks(),
    )


def _benchmarks() -> dict[str, Evaluator.Config]:
    return {"coco": Coco.Config(), "vqav2": Vqa.Config()}


def _minus_text_loss(run: RunFolder) -> float | None:
    losses = run.curve("validation/text")
    return -losses[-1][1] if losses else None


FULL = Scale(
    base=_base,
    measures={
        ZERO: Measure(
            read=mean_score(("coco", "vqav2"), 0),
            about="mean of CIDEr and VQA accuracy, without any demonstration",
        ),
        FEW: Measure(
            read=mean_score(("coco", "vqav2"), 4),
            about="mean of CIDEr and VQA accuracy; answers are open, so knowing their"
            " format counts",
        ),
        TEXT: Measure(
            read=_minus_text_loss,
            about="minus the validation loss on text",
            percent=False,
        ),
    },
    size=336,
    sizes=(224, 336),
    num_tokens=(64, 144),
    connectors=CONNECTORS,
    equalise=lambda run: None,
)


def mixture() -> Study:
    """Captions : interleaved pages, 100/0 to 0/100 (figure 5)."""
    return figures.mixture_study(FULL)


def text() -> Study:
    """With and without text-only data (figure 5)."""
    return figures.text_study(FULL)


def text_share() -> Study:
    """Images : text-only, 100/0 to 66/33 (figure 5)."""
    return figures.text_share_study(FULL)


def synthetic_captions() -> Study:
    """With and without synthetic captions (figure 5)."""

    def add(run: MM1TrainerConfig) -> None:
        run.loader.sources["synthetic"] = "data/synthetic"
        share = run.loader.weights["captions"]
        run.loader.weights |= {
            "captions": (1 - SYNTHETIC) * share,
            "synthetic": SYNTHETIC * share,
        }

    return FULL.study(
        "Synthetic captions",
        "With: 7% of the captions' tokens come from `data/synthetic`, prepared as"
        " `synthetic_captions`. MM1's share, and its gains of 2.4 and 4 points in"
        " few-shot scores, are second-hand.",
        FULL.rows({"without": lambda run: None, "with": add}),
        (
            better(
                "Synthetic captions bring few-shot performance",
                FEW,
                "with",
                "without",
            ),
        ),
    )


def isolation() -> Study:
    """Attention across packed documents, or not (section 3.3)."""
    return figures.isolation_study(FULL)


def freezing() -> Study:
    """Encoder and decoder frozen, or not (section 3.3)."""
    return figures.freezing_study(FULL)


def connector() -> Study:
    """Three connectors, 64 and 144 tokens, 224 and 336 px (figure 4)."""
    return figures.connector_study(FULL)


def encoder_loss() -> Study:
    """Encoders by contrast and by reconstruction, their sizes and resolutions, with the
    2.9B decoder (table 1)."""
    encoders = {
        "AIM 600M, 224 px": ("runs/aim_600m", aim_encoder_config("600M")),
        "AIM 1B, 224 px": ("runs/aim_1b", aim_encoder_config("1B")),
        "AIM 3B, 224 px": ("runs/aim_3b", aim_encoder_config("3B")),
        "CLIP L, 224 px": ("runs/clip_l14_224", encoder_config("L/14", 224)),
        "CLIP H, 224 px": ("runs/clip_h14_224", encoder_config("H/14", 224)),
        "CLIP L, 336 px": ("runs/clip_l14_336", encoder_config("L/14", 336)),
        "CLIP H, 336 px": ("runs/clip_h14_336", encoder_config("H/14", 336)),
        "CLIP H, 378 px": ("runs/clip_h14_378", encoder_config("H/14", 378)),
        "untrained L, 336 px": (RANDOM, encoder_config("L/14", 336)),
    }

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        folders = {}
        for row, (start, config) in encoders.items():
            run = replace(
                pretrain_3b(),
                seed=seed,
                shots=(0, 4, 8),
                benchmarks=_benchmarks(),
            )
            run.model.encoder = config
            run.init["encoder"] = start
            folders[row] = plan.add("pretrain", run)
        return folders

    return FULL.study(
        "Encoders",
        "All rows start from the language model of 2.9B, as the paper's notes have it."
        " The paper's CLIP encoders at 224 and 336 px saw DFN-5B and VeCap, that at 378"
        " px DFN-5B, its AIM DFN-2B.",
        rows,
        (
            better(
                "Contrast beats reconstruction",
                FEW,
                "CLIP L, 224 px",
                "AIM 600M, 224 px",
            ),
            better("More pixels help", FEW, "CLIP L, 336 px", "CLIP L, 224 px"),
            better(
                "More pixels help more than a larger encoder",
                FEW,
                "CLIP L, 336 px",
                "CLIP H, 224 px",
            ),
            better(
                "A trained encoder helps",
                FEW,
                "CLIP L, 336 px",
                "untrained L, 336 px",
            ),
        ),
        paper={ZERO: _table_1(0), FEW: _table_1(1)},
        paper_source=SECOND_HAND,
    )


def _table_1(column: int) -> dict[str, float]:
    """Row -> score; column 0 is 0 shots, column 1 is 4 shots."""
    scores = {
        "AIM 600M, 224 px": (36.6, 56.6),
        "AIM 1B, 224 px": (37.9, 59.5),
        "AIM 3B, 224 px": (38.9, 60.9),
        "CLIP L, 224 px": (36.9, 58.7),
        "CLIP H, 224 px": (37.5, 60.0),
        "CLIP L, 336 px": (39.9, 62.4),
        "CLIP H, 336 px": (40.5, 62.6),
        "CLIP H, 378 px": (40.9, 62.5),
    }
    return {row: numbers[column] for row, numbers in scores.items()}
