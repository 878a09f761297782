"""What MM1's figures vary and the lessons they should show, written once for the full
size and the miniature.

A `Scale` says what the rows vary and what is measured. The test of each lesson is
stated here, before any run.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

from mm1.nn.connectors import Connector
from mm1.recipes.trainer_configs import MM1TrainerConfig
from mm1.study.plan import StudyPlan
from mm1.study.study import Lesson, Measure, Study, better

ZERO = "0 shots"
FEW = "4 shots"
TEXT = "text"
SECOND_HAND = (
    "second-hand, from public notes on the paper; averages over its own benchmarks, on"
    " its own scale."
)
Rows = Callable[[StudyPlan, int], Mapping[str, str]]
Edit = Callable[[MM1TrainerConfig], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """The size at which the figures are reproduced."""

    base: Callable[[StudyPlan, int, int], MM1TrainerConfig]
    """(plan, seed, image size) -> the run that rows vary, after adding the runs that it
    starts from to the plan."""
    measures: dict[str, Measure]
    """For ZERO, FEW and TEXT."""
    size: int
    """The base's image size in pixels."""
    sizes: tuple[int, ...]
    """Image sizes at which connectors are compared, in increasing order."""
    num_tokens: tuple[int, int]
    connectors: Mapping[str, Callable[[int], Connector.Config]]
    """Name -> a connector with that number of tokens."""
    equalise: Callable[[MM1TrainerConfig], None]
    """Adapts the data to compare connectors: a step holds about as many images, however
    many tokens each takes."""
    connector_measure: dict[str, Measure] = field(default_factory=dict)
    """The measure to compare connectors by, if not FEW."""
    ask_in_packed_rows: Edit = lambda _: None
    """Adds the benchmarks that `packed_measures` read, with prompts in rows of the
    run's own mixture."""
    packed_measures: dict[str, Measure] = field(default_factory=dict)
    """For ZERO and FEW, and the controls beside them, in packed rows; may be empty."""
    prepare: Callable[[Path], None] | None = None

    def rows(self, edits: Mapping[str, Edit]) -> Rows:
        """Rows that each edit the base in place."""

        def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
            folders = {}
            for row, edit in edits.items():
                run = self.base(plan, seed, self.size)
                edit(run)
                folders[row] = plan.add("pretrain", run)
            return folders

        return rows

    def study(
        self,
        title: str,
        about: str,
        rows: Rows,
        lessons: tuple[Lesson, ...],
        **more: Any,
    ) -> Study:
        return Study(
            title=title,
            about=about,
            rows=rows,
            lessons=lessons,
            measures=self.measures,
            prepare=self.prepare,
            **more,
        )


def in_packed_rows(name: str) -> str:
    """The name of a measure or benchmark with prompts in packed rows."""
    return f"{name}, in packed rows"


def set_weights(
    captions: int | float, interleaved: int | float, text: int | float
) -> Edit:
    """Sets the weights of the sources, in any unit.

    A source of weight zero is still validated.
    """

    def edit(run: MM1TrainerConfig) -> None:
        total = captions + interleaved + text
        shares = {
            "interleaved": interleaved / total,
            "captions": captions / total,
            "text": text / total,
        }
        run.loader.weights = shares

    return edit


def mixture_study(scale: Scale) -> Study:
    """(c) Captions against interleaved pages."""
    rows = {
        "100/0": (100, 0),
        "66/33": (66, 33),
        "50/50": (50, 50),
        "33/66": (33, 66),
        "0/100": (0, 100),
    }
    return scale.study(
        "Captions : interleaved pages",
        "Shares of tokens, without text-only data; all rows start from the same runs."
        " Only pages hold several images, so part of what they teach is the format of"
        " shots.",
        scale.rows(
            {row: set_weights(*shares, 0) for row, shares in rows.items()}
        ),
        (
            better(
                "Interleaved pages bring few-shot performance",
                FEW,
                "50/50",
                "100/0",
            ),
            better(
                "Captions bring zero-shot performance", ZERO, "50/50", "0/100"
            ),
            better("Interleaved pages help text", TEXT, "0/100", "100/0"),
        ),
        paper={
            ZERO: {"100/0": 39.3, "50/50": 33.4, "0/100": 25.8},
            FEW: {"100/0": 43.8, "50/50": 58.7},
            TEXT: {"100/0": 49.6, "50/50": 52.2},
        },
        paper_source=f"{SECOND_HAND} Text is its TextCore average.",
    )


def text_study(scale: Scale) -> Study:
    """(d) With and without text-only data."""
    return scale.study(
        "With and without text-only data",
        "With text, it is a tenth of the tokens; the rest keeps its proportions.",
        scale.rows(
            {
                "captions": set_weights(100, 0, 0),
                "captions + text": set_weights(90, 0, 10),
                "interleaved": set_weights(0, 100, 0),
                "interleaved + text": set_weights(0, 90, 10),
                "both": set_weights(50, 50, 0),
                "both + text": set_weights(45, 45, 10),
            }
        ),
        (
            better(
                "Text-only data keep text performance (captions)",
                TEXT,
                "captions + text",
                "captions",
            ),
            better(
                "Text-only data keep text performance (both)",
                TEXT,
                "both + text",
                "both",
            ),
            better(
                "Text-only data help few-shot performance (captions)",
                FEW,
                "captions + text",
                "captions",
            ),
        ),
    )


def text_share_study(scale: Scale) -> Study:
    """(e) How much text-only data."""
    rows = {
        "100/0": (50, 50, 0),
        "91/9": (45.5, 45.5, 9),
        "86/14": (43, 43, 14),
        "66/33": (33, 33, 33),
    }
    return scale.study(
        "Images : text-only",
        "Captions and pages have equal shares of the first number.",
        scale.rows({row: set_weights(*shares) for row, shares in rows.items()}),
        (
            better(
                "A tenth of text keeps text performance", TEXT, "91/9", "100/0"
            ),
            better(
                "A third of text costs few-shot performance",
                FEW,
                "91/9",
                "66/33",
            ),
        ),
    )


def isolation_study(scale: Scale) -> Study:
    """(g) Attention across packed documents, or not."""

    def share(run: MM1TrainerConfig) -> None:
        run.loader.isolate = False

    def leak(run: MM1TrainerConfig) -> None:
        share(run)
        run.loader.restart_positions = False

    rows: dict[str, Edit] = {
        "isolated": lambda _: None,
        "seeing one another": share,
        "positions run on": leak,
    }

    def measured(edit: Edit) -> Edit:
        def edited(run: MM1TrainerConfig) -> None:
            edit(run)
            scale.ask_in_packed_rows(run)

        return edited

    others = tuple(rows)[1:]
    against = ("", ", against positions that run on")
    kinds = {"few-shot": FEW, "zero-shot": ZERO}
    packed = {in_packed_rows(by): m for by, m in scale.packed_measures.items()}
    return replace(scale, measures=scale.measures | packed).study(
        "Isolation of packed documents",
        "The first two rows differ in the attention mask alone: in both, positions"
        " restart with each document. In the third they also run on, as where packing"
        " is not masked at all. Targets are the same. Benchmarks prompt with a single"
        " document, as in the training of the isolated row only; *in packed rows* each"
        " prompt comes after other documents of the mixture, as in each row's own"
        " training.",
        scale.rows({row: measured(edit) for row, edit in rows.items()}),
        (
            *(
                better(
                    f"Isolation helps {kind} performance{than}",
                    by,
                    "isolated",
                    row,
                )
                for row, than in zip(others, against, strict=True)
                for kind, by in kinds.items()
            ),
            *(
                Lesson(
                    text=f"Isolation helps {kind} performance in packed rows",
                    measure=in_packed_rows(by),
                    contrasts=tuple(
                        {"isolated": 1.0, row: -1.0} for row in others
                    ),
                )
                for kind, by in kinds.items()
                if by in scale.packed_measures
            ),
        ),
    )


def freezing_study(scale: Scale) -> Study:
    """(h) Which parts learn."""

    def freeze(*parts: str) -> Edit:
        return lambda run: setattr(run, "frozen", parts)

    frozen = {
        "encoder frozen": freeze("encoder"),
        "decoder frozen": freeze("decoder"),
    }
    both = {"both frozen": freeze("encoder", "decoder")}
    return scale.study(
        "Frozen or not",
        "The connector learns in every row.",
        scale.rows({"all learn": lambda _: None} | frozen | both),
        (
            better(
                "Training the encoder helps", FEW, "all learn", "encoder frozen"
            ),
            better(
                "Training the decoder helps", FEW, "all learn", "decoder frozen"
            ),
        ),
    )


def connector_study(scale: Scale) -> Study:
    """(b) Connector x tokens x resolution."""
    names = tuple(scale.connectors)
    few, many = scale.num_tokens
    sizes = scale.sizes

    def rows(plan: StudyPlan, seed: int) -> dict[str, str]:
        folders = {}
        for size, num_tokens, name in product(sizes, (few, many), names):
            run = scale.base(plan, seed, size)
            run.model.connector = scale.connectors[name](num_tokens)
            scale.equalise(run)
            folders[_row(name, num_tokens, size)] = plan.add("pretrain", run)
        return folders

    tokens = _mean(names, (many,), sizes, 1.0) | _mean(
        names, (few,), sizes, -1.0
    )
    pairs = tuple(permutations(names, 2))
    kinds = [
        _subtract(
            tokens,
            _mean((a,), (few, many), sizes, 1.0)
            | _mean((b,), (few, many), sizes, -1.0),
        )
        for a, b in pairs
    ]
    kind = "The number of tokens matters more than the kind of connector"
    more = f"({_tokens(many)}) - ({_tokens(few)})"
    kind_words = [f"(({a}) - ({b}))" for a, b in pairs]
    by = next(iter(scale.connector_measure), FEW)
    differences = tuple(f"({more}) - {k}" for k in kind_words)
    lessons = [
        Lesson(
            text="More tokens help",
            measure=by,
            contrasts=(tokens,),
            words=(more,),
        ),
        Lesson(
            text=kind, measure=by, contrasts=tuple(kinds), words=differences
        ),
    ]
    if len(sizes) == 2:
        pixels = _mean(names, (few, many), sizes[1:], 1.0) | _mean(
            names, (few, many), sizes[:1], -1.0
        )
        words = (f"({sizes[1]} px) - ({sizes[0]} px)",)
        lessons.append(
            Lesson(
                text="More pixels help",
                measure=FEW,
                contrasts=(pixels,),
                words=words,
            )
        )
    about = (
        "Each step holds about as many images, however many tokens each takes. The"
        " contrasts are between means over rows."
    )
    measured = replace(scale, measures=scale.measures | scale.connector_measure)
    return measured.study(
        "Connector x tokens x resolution", about, rows, tuple(lessons)
    )


def _row(name: str, num_tokens: int, size: int) -> str:
    return f"{name}, {_tokens(num_tokens)}, {size} px"


def _tokens(number: int) -> str:
    return "1 token" if number == 1 else f"{number} tokens"


def _mean(
    names: tuple[str, ...],
    tokens: tuple[int, ...],
    sizes: tuple[int, ...],
    weight: float,
) -> dict[str, float]:
    """The terms of a contrast: `weight` times the mean over these rows."""
    rows = [
        _row(name, k, size) for name in names for k in tokens for size in sizes
    ]
    return dict.fromkeys(rows, weight / len(rows))


def _subtract(a: dict[str, float], b: dict[str, float]) -> dict[str, float]:
    """a - b, without terms that cancel."""
    terms = {row: a.get(row, 0.0) - b.get(row, 0.0) for row in a | b}
    return {row: weight for row, weight in terms.items() if abs(weight) > 1e-9}
