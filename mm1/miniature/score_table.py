"""Scores at every number of shots, each few-shot task above its controls
(`mm1.eval.controls`): a table on the terminal and on the report's page."""

from collections.abc import Iterable, Mapping

from mm1.eval.controls import CONTROLS, control_name, controls_of, is_control
from mm1.runs.results import RunFolder

MEANING = (
    "Restricted: the likeliest of the task's own words. Wrong labels: each shot shows"
    " another of them. Labels alone: shots without their pictures. Moved labels: the"
    " words trade places in shots and truth. If restricted answers without shots, wrong"
    " labels and labels alone come near the plain score, and moved labels are not"
    " followed, then shots only tell which words are asked for: nothing is learnt from"
    " them."
)


def score_table(
    runs: Mapping[str, RunFolder], *, controlled: bool = False
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns a head and rows; a score that is missing is empty.

    Args:
        runs: name of the model, as in "before" -> its run.
        controlled: only tasks that have controls.
    """
    every = tuple(
        dict.fromkeys(name for run in runs.values() for name in run.scores)
    )
    controls = controls_of(every)
    tasks = [name for name in every if not is_control(name, every)]
    shown = [name for name in tasks if not controlled or name in controls]
    shots = sorted(
        {k for run in runs.values() for name in shown for k in run.shots(name)}
    )
    head = (
        "task",
        "chance",
        *(f"{k} {model}" for model in runs for k in shots),
    )
    rows = []
    for name in shown:
        chance = next(
            (
                run.scores[name].get("chance")
                for run in runs.values()
                if name in run.scores
            ),
            None,
        )
        rows.append(
            (name, _number(chance), *_scores(runs, name, shots)),
        )
        rows += [
            (
                f"·\N{NO-BREAK SPACE}{each}",
                "",
                *_scores(runs, control_name(name, each), shots),
            )
            for each in CONTROLS
            if each in controls.get(name, [])
        ]
    return head, rows


def zero_shot_prompts(runs: Iterable[RunFolder]) -> list[str]:
    """What 0 shots mean in these runs, as in ": no demonstrations"; different meanings
    in the order of the benchmarks."""
    found = (run.zero_shot_prompt(name) for run in runs for name in run.scores)
    return list(dict.fromkeys(filter(None, found)))


def _scores(
    runs: Mapping[str, RunFolder], benchmark: str, shots: list[int]
) -> list[str]:
    return [
        _number(known[k]["score"] if k in known else None)
        for run in runs.values()
        for known in (run.shots(benchmark),)
        for k in shots
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
