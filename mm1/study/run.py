"""Studies from their functions to their pages: plan, train, read, judge, write."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mm1.dist import say
from mm1.study.ablation import Study, collect, write_results
from mm1.study.page import write_pages
from mm1.study.places import Place
from mm1.study.plan import Plan
from mm1.study.runner import Runner


def run_studies(
    title: str,
    studies: Mapping[str, Study],
    folder: Path,
    *,
    seeds: Sequence[int],
    place: Place,
    overrides: Sequence[str] = (),
) -> int:
    """Writes report.html, report.md and results.json into the folder; 1 if a run
    failed, else 0.

    Raises:
        ConfigError: an override does not fit.
    """
    plan = Plan(folder, overrides)
    rows = {
        name: {seed: study.rows(plan, seed) for seed in seeds}
        for name, study in studies.items()
    }
    plan.check()
    for prepare in dict.fromkeys(study.prepare for study in studies.values()):
        if prepare is not None:
            prepare(folder)
    states = Runner(plan, place).run()
    results = [
        collect(name, study, rows[name], states) for name, study in studies.items()
    ]
    write_results(results, folder / "results.json")
    write_pages(title, results, plan)
    for verdict in (verdict for each in results for verdict in each.verdicts):
        print(f"{verdict.word:13}  {verdict.lesson.text}")
    say(f"the report: {folder / 'report.html'}")
    failed = [run for run, state in states.items() if state == "failed"]
    if failed:
        say(
            "failed, and tried again by the same command:",
            *(f"\n  {run}/log.txt" for run in failed),
        )
    return int(bool(failed))
