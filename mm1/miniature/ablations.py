"""MM1's ablations in miniature: `make lessons`, on two CPU cores. The stages are the
demo's, made shorter.

Whatever a seed can vary, it does: the encoder and the language model of each seed are
trained anew, and the rows of a seed share them. World and questions are the same for
all.

The connector is average pooling where no other is said: 120 steps are early for the
demo's C-Abstractor, and how far it has come by then differs from seed to seed by more
than what most rows differ in (LOG.md).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mm1.eval.evaluator import Evaluator
from mm1.files import atomic_path
from mm1.loader.image_only import ImageLoader
from mm1.miniature.benchmarks import Miniature
from mm1.miniature.caption_benchmark import MiniatureCaptions
from mm1.miniature.recipes import (
    NAMED,
    SEED,
    SMALL,
    UNNAMED,
    make_world,
    miniature_decoder,
    miniature_encoder,
    miniature_finetune,
    miniature_pretrain,
)
from mm1.miniature.world.raw_files import write_four
from mm1.nn.aim import AIM
from mm1.nn.connectors.attention_pool import AttentionPool
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.vit import ViT
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources.captions import Captions
from mm1.recipes import figures
from mm1.recipes.ablations import CONNECTORS
from mm1.recipes.figures import FEW, TEXT, ZERO, Scale
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better, mean_score
from mm1.train.optimizers.adamw import AdamW
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

STEPS = 120
"""Of pre-training, half the demo's: early in training, where digits are hardly read yet
(LOG.md)."""
ASKED = tuple(f"{task}, asked" for task in NAMED if f"{task}, asked" != SMALL)


NUM_FOUR = 4_000
"""Pictures of four things."""
FOUR = "four things"


def _prepare(folder: Path) -> None:
    world = folder / "world"
    make_world(world)
    raw = world / "raw-four"
    if not raw.exists():
        with atomic_path(raw) as path:
            write_four(path, SEED, NUM_FOUR)
    config = Preparation.Config(source=Captions.Config(), validation=0.03)
    prepare(config, [raw], world / "four", world / "tokenizer.json")


def small_vit(image_size: int = 32, dim: int = 128) -> ViT.Config:
    config = miniature_encoder().model.encoder  # type: ignore[attr-defined]
    return replace(config, image_size=image_size, dim=dim, num_heads=dim // 32)


def lean(run: Trainer.Config, seed: int) -> Trainer.Config:
    """One process a run: several run side by side."""
    run.seed = seed
    run.loader.workers = 0
    run.validate_every = 0
    run.checkpoint_every = 100
    return run


def train_clip(plan: StudyPlan, seed: int, vit: ViT.Config) -> str:
    run = lean(miniature_encoder(str(plan.folder)), seed)
    run.model.encoder = vit  # type: ignore[attr-defined]
    run.benchmarks = {}
    return plan.add("encoder", run)


def _aim(plan: StudyPlan, seed: int, vit: ViT.Config) -> str:
    """As many pictures as `train_clip` sees; rate and head of `miniature_aim`, which
    nobody has tuned."""
    clip = miniature_encoder(str(plan.folder))
    run = Trainer.Config(
        steps=2 * clip.steps,
        model=AIM.Config(encoder=vit, head_depth=2, head_dim=128),
        loader=ImageLoader.Config(
            sources=clip.loader.sources,  # type: ignore[attr-defined]
            batch_size=clip.loader.batch_size // 2,  # type: ignore[attr-defined]
        ),
        optimizer=AdamW.Config(peak_lr=2e-3, weight_decay=0.05),
        scheduler=WarmupCosine.Config(warmup_steps=50, min_lr_ratio=0.0),
        precision="fp32",
    )
    return plan.add("aim", lean(run, seed))


def _decoder(plan: StudyPlan, seed: int) -> str:
    run = lean(miniature_decoder(str(plan.folder)), seed)
    run.benchmarks = {}
    return plan.add("decoder", run)


def _pretrain(
    plan: StudyPlan, seed: int, vit: ViT.Config, encoder: str | None
) -> Trainer.Config:
    run = lean(miniature_pretrain(str(plan.folder)), seed)
    run.steps = STEPS
    run.benchmarks = _benchmarks()
    run.model.encoder = vit  # type: ignore[attr-defined]
    run.model.connector = AveragePool.Config(num_tokens=4)  # type: ignore[attr-defined]
    run.init = {"decoder": _decoder(plan, seed)} | (
        {"encoder": encoder} if encoder else {}
    )
    return run


def _base(plan: StudyPlan, seed: int, image_size: int) -> Trainer.Config:
    vit = small_vit(image_size)
    return _pretrain(plan, seed, vit, train_clip(plan, seed, vit))


def _benchmarks() -> dict[str, Evaluator.Config]:
    asked: dict[str, Evaluator.Config] = {
        task: Miniature.Config(
            task=task, named=False, seed=1, num_questions=150, shots=(4,)
        )
        for task in UNNAMED
    }
    asked["captions"] = MiniatureCaptions.Config(seed=1, num_questions=200, shots=(0,))
    for task in ("fact", "copy"):
        asked[f"{task} (text)"] = Miniature.Config(
            task=task, seed=1, num_questions=200, shots=(0,)
        )
    return asked


def _with_four_things(run: Trainer.Config) -> None:
    """Half the captions are of pictures with four things, one for each token of four;
    twice as many steps.

    By `STEPS` attention pooling has not begun to look at places (LOG.md). Where a
    picture is one token, rows are shorter, so that a step holds as many pictures.
    """
    run.steps = 2 * STEPS
    captions = run.loader.sources["captions"]  # type: ignore[attr-defined]
    run.loader.sources[FOUR] = str(Path(captions).with_name("four"))  # type: ignore[attr-defined]
    weights = run.loader.weights  # type: ignore[attr-defined]
    weights |= {"captions": weights["captions"] / 2, FOUR: weights["captions"] / 2}
    run.benchmarks[FOUR] = MiniatureCaptions.Config(
        four=True, max_tokens=10, seed=1, num_questions=200, shots=(0,)
    )
    if run.model.connector.num_tokens == 1:  # type: ignore[attr-defined]
        run.loader.sequence_length = 72  # type: ignore[attr-defined]


MINIATURE = Scale(
    base=_base,
    measures={
        ZERO: Measure(
            read=mean_score(("captions",), 0),
            about="words of a caption that are right, without any demonstration",
        ),
        FEW: Measure(
            read=mean_score(UNNAMED, 4),
            about="exact match, mean of colour, shape, count and digit",
        ),
        TEXT: Measure(
            read=mean_score(("fact (text)", "copy (text)"), 0),
            about="exact match, mean of facts and copying",
        ),
    },
    size=32,
    sizes=(16, 32),
    num_tokens=(
        1,
        4,
        # of 4 x 4 patches: 16 or 4 patches a token, where MM1's 64 and 144 stand for 9 and
        # 4
    ),
    connectors=CONNECTORS
    | {
        "attention": lambda k: AttentionPool.Config(num_tokens=k, dim=128, num_heads=4),
        "C-Abstractor": lambda k: CAbstractor.Config(num_tokens=k, dim=128, depth=1),
    },
    tokens_by={
        FOUR: Measure(
            read=mean_score((FOUR,), 0), about="words that are right, each at its place"
        )
    },
    fit=_with_four_things,
    prepare=_prepare,
)


def miniature_mixture() -> Study:
    """Captions : interleaved pages, 100/0 to 0/100."""
    return figures.mixture(MINIATURE)


def miniature_text() -> Study:
    """With and without text-only data."""
    return figures.text(MINIATURE)


def miniature_text_share() -> Study:
    """Images : text-only, 100/0 to 66/33."""
    return figures.text_share(MINIATURE)


def miniature_isolation() -> Study:
    """Packed documents that see one another, or not."""
    return figures.isolation(MINIATURE)


def miniature_freezing() -> Study:
    """Encoder and decoder frozen, or not."""
    return figures.freezing(MINIATURE)


def miniature_connector() -> Study:
    """Three connectors, 1 and 4 tokens, 16 and 32 px."""
    return figures.connector(MINIATURE)


def miniature_tokens() -> Study:
    """The rows of `miniature_connector` at 32 px alone."""
    return figures.connector(replace(MINIATURE, sizes=(32,)))


def miniature_encoder_loss() -> Study:
    """Encoders by contrast, by reconstruction and untrained; at fewer pixels, and wider
    there."""
    aim = replace(small_vit(), positions="fixed", patch_norm=True, bias=False)

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        clip: dict[str, ViT.Config] = {
            "CLIP": small_vit(),
            "CLIP, 16 px": small_vit(16),
            "CLIP, 16 px, wider": small_vit(16, dim=192),
        }
        runs = {
            row: _pretrain(plan, seed, vit, train_clip(plan, seed, vit))
            for row, vit in clip.items()
        }
        runs["AIM"] = _pretrain(plan, seed, aim, _aim(plan, seed, aim))
        runs["untrained"] = _pretrain(plan, seed, small_vit(), None)
        return {row: plan.add("pretrain", run) for row, run in runs.items()}

    return MINIATURE.study(
        "Encoders",
        "Pictures have 32 px where no other size is said. By contrast and by"
        " reconstruction each saw as many pictures; AIM's rate and head are not tuned."
        " Wider: 192 in place of 128 channels, 2.2 times the weights; from 16 to 32 px:"
        " 4 times the patches.",
        rows,
        (
            better("Contrast beats reconstruction", FEW, "CLIP", "AIM"),
            better("A trained encoder helps", FEW, "CLIP", "untrained"),
            better("More pixels help", FEW, "CLIP", "CLIP, 16 px"),
            better(
                "More pixels help more than a larger encoder",
                FEW,
                "CLIP",
                "CLIP, 16 px, wider",
            ),
        ),
    )


def _tuned(plan: StudyPlan, run: Trainer.Config, image_size: int, tiles: int) -> str:
    """A pre-training, fine-tuned at a size and with sub-images."""
    start = plan.add("pretrain", run)
    tuned = lean(miniature_finetune(str(plan.folder)), run.seed)
    tuned.model.encoder = small_vit(image_size)  # type: ignore[attr-defined]
    tuned.model.connector = run.model.connector  # type: ignore[attr-defined]
    tuned.loader.max_tiles = tiles  # type: ignore[attr-defined]
    tuned.init = dict.fromkeys(("encoder", "connector", "decoder"), start)
    tuned.benchmarks = {name: tuned.benchmarks[name] for name in (*ASKED, SMALL)}
    return plan.add("finetune", tuned)


def miniature_resolution() -> Study:
    """Fine-tuning at more pixels, and with sub-images."""
    rows = {"32 px": (32, 1), "48 px": (48, 1), "48 px, sub-images": (48, 4)}

    def made(plan: StudyPlan, seed: int) -> dict[str, str]:
        return {
            row: _tuned(plan, _base(plan, seed, 32), *choices)
            for row, choices in rows.items()
        }

    return _after_tuning(
        "Resolution of fine-tuning",
        "The same pre-trained model, fine-tuned for as many steps. Small digits cover"
        " 1/36 of their picture, the other things 1/9.",
        made,
        (
            (
                "Sub-images help small detail",
                "small digits",
                "48 px, sub-images",
                "48 px",
            ),
            ("More pixels help small detail", "small digits", "48 px", "32 px"),
            ("More pixels help what is large enough, too", "asked", "48 px", "32 px"),
        ),
    )


def miniature_steps() -> Study:
    """Steps of pre-training against the score after fine-tuning."""
    lengths = (STEPS // 4, STEPS // 2, STEPS)

    def made(plan: StudyPlan, seed: int) -> dict[str, str]:
        return {
            f"{steps} steps": _tuned(
                plan, _shorter(_base(plan, seed, 32), steps), 48, 1
            )
            for steps in lengths
        }

    low, middle, high = (f"{steps} steps" for steps in lengths)
    return _after_tuning(
        "Steps of pre-training",
        "Each pre-training has a whole schedule of its own; fine-tuning is the same, at"
        " 48 px.",
        made,
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


def _shorter(run: Trainer.Config, steps: int) -> Trainer.Config:
    run.steps = steps
    return run


def _after_tuning(
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
            "small digits": Measure(read=mean_score((SMALL,), 0), about="exact match"),
        },
        lessons=tuple(better(*lesson) for lesson in lessons),
        prepare=_prepare,
    )
