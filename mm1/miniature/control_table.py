"""What shots add, beside the controls of few-shot figures (`mm1.eval.controls`): the
rows of a table on the terminal and on the report's page."""

from collections.abc import Mapping

from mm1.eval.controls import CONTROLS, control_name, controls_of
from mm1.miniature.recipes import CONTROL_SHOTS
from mm1.runs.results import RunFolder

HEAD = (
    "task",
    "model",
    "0 shots",
    "0, restricted",
    f"{CONTROL_SHOTS} shots",
    *(f"{CONTROL_SHOTS}, {control}" for control in CONTROLS),
)
MEANING = (
    "Restricted: the likeliest of the task's own words. Wrong labels: each shot shows"
    " another of them. Labels alone: shots without their pictures. Moved labels: the"
    " words trade places in shots and truth. If restricted answers without shots, wrong"
    " labels and labels alone come near the plain score, and moved labels are not"
    " followed, then shots only tell which words are asked for: nothing is learnt from"
    " them."
)


def control_rows(runs: Mapping[str, RunFolder]) -> list[tuple[str, ...]]:
    """Rows under `HEAD` of the benchmarks that have controls; a score that is missing
    is empty.

    Args:
        runs: name of the model, as in "before fine-tuning" -> its run.
    """
    names = {
        name: None
        for run in runs.values()
        for name in controls_of(tuple(run.scores))
    }
    rows = []
    for name in names:
        for model, run in runs.items():
            restricted = control_name(name, "restricted")
            at = CONTROL_SHOTS
            cells = [
                _score(run, name, 0),
                _score(run, restricted, 0),
                _score(run, name, at),
                *(_score(run, control_name(name, c), at) for c in CONTROLS),
            ]
            rows.append((name, model, *cells))
    return rows


def _score(run: RunFolder, benchmark: str, shots: int) -> str:
    result = run.shots(benchmark).get(shots)
    return "" if result is None else f"{result['score']:.2f}"
