"""Runs studies from start to end: plans, trains, reads, judges and writes the pages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mm1.dist import say
from mm1.study.executors import Executor
from mm1.study.family import corrected_lessons
from mm1.study.page import write_study_pages
from mm1.study.plan import StudyPlan
from mm1.study.runner import Runner
from mm1.study.study import Study, collect, write_results


def run_studies(
    title: str,
    studies: Mapping[str, Study],
    folder: Path,
    *,
    seeds: Sequence[int] | None = None,
    executor: Executor,
    overrides: Sequence[str] = (),
) -> int:
    """Writes report.html, report.md and results.json into the folder.

    Args:
        seeds: those of all studies; None: those that each is stated for.

    Returns 1 if a run failed, else 0.

    Raises:
        ConfigError: an override does not fit a config.
    """
    plan = StudyPlan(folder, overrides)
    rows = {
        name: {
            seed: study.rows(plan, seed)
            for seed in (study.seeds if seeds is None else seeds)
        }
        for name, study in studies.items()
    }
    plan.check()
    for prepare in dict.fromkeys(study.prepare for study in studies.values()):
        if prepare is not None:
            prepare(folder)
    states = Runner(plan, executor).run()
    results = [
        collect(name, study, rows[name], states)
        for name, study in studies.items()
    ]
    write_results(results, folder / "results.json")
    write_study_pages(title, results, plan)
    for each in corrected_lessons(results):
        print(f"{each.verdict:13}  {each.judged.lesson.text}")
    say(f"report: {folder / 'report.html'}")
    failed = [run for run, state in states.items() if state == "failed"]
    if failed:
        say(
            "failed; the same command tries them again:",
            *(f"\n  {run}/log.txt" for run in failed),
        )
    return int(bool(failed))
