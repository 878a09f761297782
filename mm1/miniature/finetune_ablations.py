"""MM1's ablations of fine-tuning in miniature, from the pre-training of
`mm1.miniature.ablations`."""

from collections.abc import Callable
from dataclasses import replace

from mm1.miniature.ablations import (
    STEPS,
    base,
    prepare_folder,
    small_vit,
    without_workers,
)
from mm1.miniature.recipes import NAMED, SMALL, miniature_finetune
from mm1.miniature.stated import stated
from mm1.recipes.finetune import PARTS
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better, mean_score

ASKED = tuple(f"{task}, asked" for task in NAMED if f"{task}, asked" != SMALL)


def _finetuned(
    plan: StudyPlan,
    pretrained: MM1TrainerConfig,
    image_size: int,
    max_tiles: int,
) -> str:
    """Adds a pre-training and its fine-tuning at an image size and with sub-images."""
    start = plan.add("pretrain", pretrained)
    run = without_workers(miniature_finetune(str(plan.folder)), pretrained.seed)
    run.model.encoder = small_vit(image_size)
    run.model.connector = pretrained.model.connector
    run.loader.max_tiles = max_tiles
    run.init = dict.fromkeys(PARTS, start)
    run.benchmarks = {name: run.benchmarks[name] for name in (*ASKED, SMALL)}
    return plan.add("finetune", run)


def miniature_resolution() -> Study:
    """Fine-tuning at more pixels, and with sub-images."""
    choices = {"32 px": (32, 1), "48 px": (48, 1), "48 px, sub-images": (48, 4)}

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        return {
            row: _finetuned(plan, base(plan, seed, 32), image_size, max_tiles)
            for row, (image_size, max_tiles) in choices.items()
        }

    study = _finetune_study(
        "Resolution of fine-tuning",
        "One pre-trained model, fine-tuned for the same number of steps. Small digits"
        " cover 1/36 of their image, other objects 1/9.",
        rows,
        (
            (
                "Sub-images help small detail",
                "small digits",
                "48 px, sub-images",
                "48 px",
            ),
            ("More pixels help small detail", "small digits", "48 px", "32 px"),
            (
                "More pixels help what is large enough, too",
                "asked",
                "48 px",
                "32 px",
            ),
        ),
    )
    return stated(study)


def miniature_steps() -> Study:
    """Steps of pre-training against the score after fine-tuning."""
    lengths = (STEPS // 4, STEPS // 2, STEPS)

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        folders = {}
        for steps in lengths:
            pretrained = replace(base(plan, seed, 32), steps=steps)
            folders[f"{steps} steps"] = _finetuned(plan, pretrained, 48, 1)
        return folders

    low, middle, high = (f"{steps} steps" for steps in lengths)
    return _finetune_study(
        "Steps of pre-training",
        "Each pre-training has a complete schedule; fine-tuning is the same, at 48 px.",
        rows,
        (
            (
                "More pre-training, better after fine-tuning (a half against all)",
                "asked",
                high,
                middle,
            ),
            (
                (
                    "More pre-training, better after fine-tuning (a quarter against a"
                    " half)"
                ),
                "asked",
                middle,
                low,
            ),
        ),
    )


def _finetune_study(
    title: str,
    about: str,
    rows: Callable[[StudyPlan, int], dict[str, str]],
    lessons: tuple[tuple[str, str, str, str], ...],
) -> Study:
    return Study(
        title=title,
        about=about,
        rows=rows,
        measures={
            "asked": Measure(
                read=mean_score(ASKED, 0),
                about="exact match, mean of colour, shape and digit, asked by name",
            ),
            "small digits": Measure(
                read=mean_score((SMALL,), 0), about="exact match"
            ),
        },
        lessons=tuple(better(*lesson) for lesson in lessons),
        prepare=prepare_folder,
    )
