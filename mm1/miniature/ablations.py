"""MM1's ablations of pre-training in miniature, on two CPU cores: the demo's stages,
made shorter. `make lessons` runs most of them.

A seed varies everything that it can: its encoder and its language model are trained
anew, and its rows share them. The world and the questions are the same for all seeds.

The connector is average pooling unless stated otherwise: after 120 steps, how far the
demo's C-Abstractor has come varies more between seeds than most rows differ (LOG.md).
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mm1.eval.benchmarks import Benchmark
from mm1.eval.controls import control_name, with_controls
from mm1.eval.evaluator import Evaluator
from mm1.loader.image_only import ImageLoader
from mm1.miniature.benchmarks import Miniature
from mm1.miniature.caption_benchmark import MiniatureCaptions
from mm1.miniature.recipes import (
    UNNAMED,
    miniature_decoder,
    miniature_encoder,
    miniature_pretrain,
)
from mm1.miniature.stated import PIXEL_SEEDS, stated
from mm1.miniature.world.prepared import prepare_four_objects, prepare_world
from mm1.nn.aim import AIM
from mm1.nn.connectors.attention_pool import AttentionPool
from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.vit import ViT
from mm1.recipes import figures
from mm1.recipes.ablations import CONNECTORS
from mm1.recipes.figures import FEW, TEXT, ZERO, Scale, in_packed_rows
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.study.plan import StudyPlan
from mm1.study.study import Measure, Study, better, mean_score
from mm1.train.optimizers.adamw import AdamW
from mm1.train.origins import RANDOM
from mm1.train.schedulers import WarmupCosine
from mm1.train.trainer import Trainer

STEPS = 120
"""Of pre-training: half the demo's, when digits are hardly read yet (LOG.md)."""
FOUR = "four things"

AnyTrainerConfig = TypeVar("AnyTrainerConfig", bound=Trainer.Config)


def prepare_folder(folder: Path) -> None:
    """Prepares the data of all miniature studies in `folder`."""
    prepare_world(folder / "world")
    prepare_four_objects(folder / "world")


def small_vit(image_size: int = 32, dim: int = 128) -> ViT.Config:
    config = miniature_encoder().model.encoder
    return replace(config, image_size=image_size, dim=dim, num_heads=dim // 32)


def without_workers(run: AnyTrainerConfig, seed: int) -> AnyTrainerConfig:
    """The run as a single process, since several run side by side."""
    return replace(
        run,
        seed=seed,
        loader=replace(run.loader, workers=0),
        validate_every=0,
        checkpoint_every=100,
    )


def add_clip(plan: StudyPlan, seed: int, vit: ViT.Config) -> str:
    run = without_workers(miniature_encoder(str(plan.folder)), seed)
    run.model.encoder = vit
    run.benchmarks = {}
    return plan.add("encoder", run)


def _add_aim(plan: StudyPlan, seed: int, vit: ViT.Config) -> str:
    """Sees as many images as `add_clip`; rate and head are those of `miniature_aim`,
    which are not tuned."""
    clip = miniature_encoder(str(plan.folder))
    run = Trainer.Config(
        steps=2 * clip.steps,
        model=AIM.Config(encoder=vit, head_depth=2, head_dim=128),
        loader=ImageLoader.Config(
            sources=clip.loader.sources, batch_size=clip.loader.batch_size // 2
        ),
        optimizer=AdamW.Config(peak_lr=2e-3, weight_decay=0.05),
        scheduler=WarmupCosine.Config(warmup_steps=50, min_lr_ratio=0.0),
        precision="fp32",
    )
    return plan.add("aim", without_workers(run, seed))


def _add_decoder(plan: StudyPlan, seed: int) -> str:
    run = without_workers(miniature_decoder(str(plan.folder)), seed)
    run.benchmarks = {}
    return plan.add("decoder", run)


def _pretrain(
    plan: StudyPlan, seed: int, vit: ViT.Config, encoder: str | None
) -> MM1TrainerConfig:
    """A pre-training that starts from a language model of its seed, and from `encoder`
    if given."""
    run = without_workers(miniature_pretrain(str(plan.folder)), seed)
    run.steps = STEPS
    run.benchmarks = _benchmarks()
    run.model.encoder = vit
    run.model.connector = AveragePool.Config(num_tokens=4)
    run.init = {
        "decoder": _add_decoder(plan, seed),
        "encoder": encoder or RANDOM,
    }
    return run


def base(plan: StudyPlan, seed: int, image_size: int) -> MM1TrainerConfig:
    """The pre-training that rows vary."""
    vit = small_vit(image_size)
    return _pretrain(plan, seed, vit, add_clip(plan, seed, vit))


def _benchmarks() -> dict[str, Evaluator.Config]:
    benchmarks: dict[str, Evaluator.Config] = {
        task: Miniature.Config(
            task=task,
            named=False,
            restricted=True,
            seed=1,
            num_questions=150,
            shots=(0, 4),
        )
        for task in UNNAMED
    }
    benchmarks = with_controls(benchmarks, (4,))
    benchmarks["captions"] = MiniatureCaptions.Config(
        seed=1, num_questions=200, shots=(0,)
    )
    for task in ("fact", "copy"):
        benchmarks[f"{task} (text)"] = Miniature.Config(
            task=task, seed=1, num_questions=200, shots=(0,)
        )
    return benchmarks


def _with_four_objects(run: MM1TrainerConfig) -> None:
    """Half the captions describe images of four objects, one for each of four tokens;
    there are twice as many steps.

    By `STEPS`, attention pooling does not use positions yet (LOG.md). Where an image is
    one token, sequences are shorter, so that a step holds as many images.
    """
    run.steps = 2 * STEPS
    loader = run.loader
    loader.sources[FOUR] = str(
        Path(loader.sources["captions"]).with_name("four")
    )
    share = loader.weights["captions"] / 2
    loader.weights |= {"captions": share, FOUR: share}
    run.benchmarks[FOUR] = MiniatureCaptions.Config(
        four=True, max_tokens=10, seed=1, num_questions=200, shots=(0,)
    )
    if run.model.connector.num_tokens == 1:
        loader.sequence_length = 72


def _ask_in_packed_rows(run: MM1TrainerConfig) -> None:
    """Few-shot tasks, their controls and captions again, after documents of the run's
    own mixture."""
    again: dict[str, Evaluator.Config] = {}
    for name in (*UNNAMED, "captions"):
        config = run.benchmarks[name]
        assert isinstance(config, Benchmark.Config)
        again[in_packed_rows(name)] = replace(
            config, packed_with=deepcopy(run.loader)
        )
    run.benchmarks |= with_controls(again, ())


def _few(
    names: Sequence[str], about: str, controls_about: str = ""
) -> dict[str, Measure]:
    """Of the tasks that only shots tell, with controls. Answers are the likeliest of a
    task's own words, so that knowing the format of answers is not counted as skill."""

    def measure(shots: int, control: str = "") -> Measure:
        asked = [
            control_name(name, control) if control else name for name in names
        ]
        return Measure(
            read=mean_score(asked, shots), about=controls_about or about
        )

    controls = ("wrong labels", "labels alone", "moved labels")
    return {
        FEW: replace(measure(4), about=about),
        "no shots, restricted": measure(0),
        **{f"{FEW}, {control}": measure(4, control) for control in controls},
    }


MINIATURE = Scale(
    base=base,
    measures={
        ZERO: Measure(
            read=mean_score(("captions",), 0),
            about="right words of captions, without demonstrations",
        ),
        **_few(
            UNNAMED,
            "restricted to the task's words, mean of colour, shape, count and digit",
        ),
        TEXT: Measure(
            read=mean_score(("fact (text)", "copy (text)"), 0),
            about="exact match, mean of facts and copying",
        ),
    },
    size=32,
    sizes=(16, 32),
    # Of 4 x 4 patches: a token stands for 16 or 4 of them; in MM1, for 9 or 4.
    num_tokens=(1, 4),
    connectors=CONNECTORS
    | {
        "attention": lambda k: AttentionPool.Config(
            num_tokens=k, dim=128, num_heads=4
        ),
        "C-Abstractor": lambda k: CAbstractor.Config(
            num_tokens=k, dim=128, depth=1
        ),
    },
    connector_measure={
        FOUR: Measure(
            read=mean_score((FOUR,), 0),
            about="right words at the right position",
        )
    },
    equalise=_with_four_objects,
    ask_in_packed_rows=_ask_in_packed_rows,
    packed_measures={
        ZERO: Measure(
            read=mean_score((in_packed_rows("captions"),), 0),
            about="right words of captions that come after other documents",
        ),
        **_few(
            [in_packed_rows(task) for task in UNNAMED],
            "as 4 shots, after other documents",
            "the same after other documents",
        ),
    },
    prepare=prepare_folder,
)


def miniature_mixture() -> Study:
    """Captions : interleaved pages, 100/0 to 0/100."""
    return stated(figures.mixture_study(MINIATURE))


def miniature_text() -> Study:
    """With and without text-only data."""
    return stated(figures.text_study(MINIATURE))


def miniature_text_share() -> Study:
    """Images : text-only, 100/0 to 66/33."""
    return figures.text_share_study(MINIATURE)


def miniature_isolation() -> Study:
    """Attention across packed documents, or not."""
    return stated(figures.isolation_study(MINIATURE))


def miniature_freezing() -> Study:
    """Encoder and decoder frozen, or not."""
    return figures.freezing_study(MINIATURE)


def miniature_connector() -> Study:
    """Three connectors, 1 and 4 tokens, 16 and 32 px."""
    return figures.connector_study(MINIATURE)


def miniature_tokens() -> Study:
    """The rows of `miniature_connector` at 32 px alone."""
    return stated(figures.connector_study(replace(MINIATURE, sizes=(32,))))


def miniature_encoder_loss() -> Study:
    """Encoders by contrast, by reconstruction and untrained; fewer pixels."""
    aim = replace(small_vit(), positions="fixed", patch_norm=True, bias=False)

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        runs = {
            "CLIP": base(plan, seed, 32),
            "CLIP, 16 px": base(plan, seed, 16),
            "AIM": _pretrain(plan, seed, aim, _add_aim(plan, seed, aim)),
            "untrained": _pretrain(plan, seed, small_vit(), None),
        }
        return {row: plan.add("pretrain", run) for row, run in runs.items()}

    study = MINIATURE.study(
        "Encoders",
        "Images have 32 px unless stated otherwise. CLIP and AIM saw the same number of"
        " images; AIM's rate and head are not tuned.",
        rows,
        (
            better("Contrast beats reconstruction", FEW, "CLIP", "AIM"),
            better("A trained encoder helps", FEW, "CLIP", "untrained"),
            better("More pixels help", FEW, "CLIP", "CLIP, 16 px"),
        ),
    )
    return stated(study)


def miniature_pixels_or_width() -> Study:
    """Twice the pixels against a wider encoder, with twelve seeds."""

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        wider = small_vit(16, dim=192)
        runs = {
            "32 px": base(plan, seed, 32),
            "16 px, wider": _pretrain(
                plan, seed, wider, add_clip(plan, seed, wider)
            ),
        }
        return {row: plan.add("pretrain", run) for row, run in runs.items()}

    study = MINIATURE.study(
        "Pixels or width",
        "Wider: 192 in place of 128 channels, 2.2 times the parameters; from 16 to 32"
        " px: 4 times the patches.",
        rows,
        (
            better(
                "More pixels help more than a larger encoder",
                FEW,
                "32 px",
                "16 px, wider",
            ),
        ),
    )
    return stated(study, PIXEL_SEEDS)
