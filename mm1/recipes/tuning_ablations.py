"""MM1's ablations of fine-tuning at full size (section 5.1), from `pretrain_3b`; in
miniature in `miniature_ablations`.

    mm1 study resolution --out runs/resolution --seeds 0 --launcher "srun --nodes 2
    --gpus-per-node 8 ..." \\
        finetune:loader.sources.instructions=data/instructions
        finetune:benchmarks.textvqa.annotations=... ...

`resolution` starts from a finished `runs/pretrain_3b`; `steps` trains its own, each
with a whole schedule.
"""

from collections.abc import Callable
from dataclasses import replace

from mm1.eval.benchmarks.textvqa import TextVqa
from mm1.eval.benchmarks.vqa import Vqa
from mm1.recipes.finetune import PARTS, sft_3b, sft_3b_1344
from mm1.recipes.pretrain import pretrain_3b
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better, mean_score
from mm1.train.trainer import Trainer

DETAIL = "text in pictures"
GENERAL = "general"
MEASURES = {
    DETAIL: Measure(read=mean_score(("textvqa",), 0), about="VQA accuracy of TextVQA"),
    GENERAL: Measure(read=mean_score(("vqav2",), 0), about="VQA accuracy of VQA v2"),
}


def _asked(run: Trainer.Config, seed: int) -> Trainer.Config:
    run.seed = seed
    run.shots = (0,)
    run.benchmarks = {
        "textvqa": TextVqa.Config(chat=True),
        "vqav2": Vqa.Config(chat=True),
    }
    return run


def _at(image_size: int) -> Trainer.Config:
    """`sft_3b` with whole pictures of another size; positions are interpolated."""
    run = sft_3b()
    run.model.encoder.image_size = image_size  # type: ignore[attr-defined]
    return run


def _at_1792() -> Trainer.Config:
    """`sft_3b_1344` with five views of 896 pixels."""
    run = sft_3b_1344()
    run.model.encoder.image_size = 896  # type: ignore[attr-defined]
    return run


def resolution() -> Study:
    """Fine-tuning at 378 to 672 px, and with sub-images at 1344 and 1792 (figure 7)."""
    rows: dict[str, Callable[[], Trainer.Config]] = {
        "378 px": sft_3b,
        "448 px": lambda: _at(448),
        "672 px": lambda: _at(672),
        "1344 px, sub-images": sft_3b_1344,
        "1792 px, sub-images": _at_1792,
    }

    def made(plan: StudyPlan, seed: int) -> dict[str, str]:
        return {
            row: plan.add("finetune", _asked(make(), seed))
            for row, make in rows.items()
        }

    return Study(
        title="Resolution of fine-tuning",
        about=(
            "One pre-trained model, fine-tuned for as many steps; whole pictures have"
            " 144 tokens, five views 720."
        ),
        rows=made,
        measures=MEASURES,
        lessons=(
            better("More pixels help to read text", DETAIL, "672 px", "378 px"),
            better(
                "Sub-images help to read text", DETAIL, "1344 px, sub-images", "672 px"
            ),
            better(
                "More pixels help with whole pictures, too", GENERAL, "672 px", "378 px"
            ),
        ),
    )


def steps() -> Study:
    """Steps of pre-training against the score after fine-tuning (figure 7)."""
    lengths = (50_000, 100_000, 200_000)

    def made(plan: StudyPlan, seed: int) -> dict[str, str]:
        folders = {}
        for number in lengths:
            start = plan.add(
                "pretrain", replace(pretrain_3b(), steps=number, seed=seed)
            )
            tuned = _asked(sft_3b(), seed)
            tuned.init = dict.fromkeys(PARTS, start)
            folders[f"{number:,} steps"] = plan.add("finetune", tuned)
        return folders

    low, middle, high = (f"{number:,} steps" for number in lengths)
    return Study(
        title="Steps of pre-training",
        about=(
            "Each pre-training has a whole schedule of its own; fine-tuning is the"
            " same, at 378 px."
        ),
        rows=made,
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
