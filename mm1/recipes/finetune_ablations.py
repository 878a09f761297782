"""MM1's ablations of fine-tuning (section 5.1) at full size, from `pretrain_3b`. Their
miniatures are in `mm1/miniature/ablations.py`.

    mm1 study resolution --out runs/resolution --seeds 0 \\
        --launcher "srun --nodes 2 --gpus-per-node 8 ..." \\
        finetune:loader.sources.instructions=data/instructions \\
        finetune:benchmarks.textvqa.annotations=... ...

`resolution` starts from a finished `runs/pretrain_3b`; `steps` pre-trains its own, each
with a complete schedule.
"""

from dataclasses import replace

from mm1.eval.benchmarks.textvqa import TextVqa
from mm1.eval.benchmarks.vqa import Vqa
from mm1.recipes.finetune import PARTS, sft_3b, sft_3b_1344
from mm1.recipes.pretrain import pretrain_3b
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better, mean_score

DETAIL = "text in pictures"
GENERAL = "general"
MEASURES = {
    DETAIL: Measure(
        read=mean_score(("textvqa",), 0), about="VQA accuracy of TextVQA"
    ),
    GENERAL: Measure(
        read=mean_score(("vqav2",), 0), about="VQA accuracy of VQA v2"
    ),
}


def _finetuned(
    plan: StudyPlan, run: MM1TrainerConfig, seed: int, start: str | None = None
) -> str:
    """Adds a fine-tuning with this study's benchmarks, from another run than its own if
    `start` is given."""
    run = replace(
        run,
        seed=seed,
        init=dict.fromkeys(PARTS, start) if start else run.init,
        shots=(0,),
        benchmarks={
            "textvqa": TextVqa.Config(chat=True),
            "vqav2": Vqa.Config(chat=True),
        },
    )
    return plan.add("finetune", run)


def resolution() -> Study:
    """Fine-tuning at 378 to 672 px, and with sub-images at 1344 and 1792 (figure 7)."""
    recipes: dict[str, MM1TrainerConfig] = {
        "378 px": sft_3b(),
        "448 px": sft_3b(image_size=448),
        "672 px": sft_3b(image_size=672),
        "1344 px, sub-images": sft_3b_1344(),
        "1792 px, sub-images": sft_3b_1344(tile_size=896),
    }

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        return {
            row: _finetuned(plan, run, seed) for row, run in recipes.items()
        }

    return Study(
        title="Resolution of fine-tuning",
        about=(
            "One pre-trained model, fine-tuned for the same number of steps; a whole"
            " image has 144 tokens, five sub-images have 720."
        ),
        rows=rows,
        measures=MEASURES,
        lessons=(
            better("More pixels help to read text", DETAIL, "672 px", "378 px"),
            better(
                "Sub-images help to read text",
                DETAIL,
                "1344 px, sub-images",
                "672 px",
            ),
            better(
                "More pixels help with whole pictures, too",
                GENERAL,
                "672 px",
                "378 px",
            ),
        ),
    )


def steps() -> Study:
    """Steps of pre-training against the score after fine-tuning (figure 7)."""
    lengths = (50_000, 100_000, 200_000)

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        folders = {}
        for number in lengths:
            pretrained = replace(pretrain_3b(), steps=number, seed=seed)
            start = plan.add("pretrain", pretrained)
            folders[f"{number:,} steps"] = _finetuned(
                plan, sft_3b(), seed, start
            )
        return folders

    low, middle, high = (f"{number:,} steps" for number in lengths)
    return Study(
        title="Steps of pre-training",
        about=(
            "Each pre-training has a complete schedule; fine-tuning is the same, at 378"
            " px."
        ),
        rows=rows,
        measures=MEASURES,
        lessons=(
            better(
                "More pre-training, better after fine-tuning (a half against all)",
                GENERAL,
                high,
                middle,
            ),
            better(
                "More pre-training, better after fine-tuning (a quarter against a"
                " half)",
                GENERAL,
                middle,
                low,
            ),
        ),
    )
