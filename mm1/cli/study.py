"""`mm1 study`: ablations, and the law of the learning rate."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import (
    VERBOSITY,
    add_command,
    add_out,
    add_overrides,
    add_trust,
    count,
    count_from_zero,
    named_values,
    or_override,
    positive,
    refuse_beside,
)

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands
    from mm1.study.executors import Executor


def add_study_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "study",
        _study,
        "Train an ablation over several seeds and judge what it claims.",
        "Finished runs are not trained again.",
        resumes=True,
    )
    add = parser.add_argument
    add(
        "names",
        nargs="+",
        metavar="NAME",
        help="one or more of `mm1 list studies`",
    )
    add_overrides(
        parser,
        "keys to change in all runs; STAGE:a.b=value in those of one stage",
    )
    add_out(parser, "DIR", "folder for runs and pages", required=False)
    add_trust(parser)
    add(
        "--seeds",
        nargs="+",
        type=or_override(count_from_zero),
        metavar="N",
        help="every run is trained once with each (default: those that a study is"
        " stated for, else 0 1 2)",
    )
    add(
        "--state",
        action="store_true",
        help="print rows, measures, tests and seeds of the studies, and run nothing",
    )
    add(
        "--jobs",
        type=count,
        metavar="N",
        help="runs at a time (default: one for each core here, all on a cluster)",
    )
    add(
        "--launcher",
        default="",
        metavar="COMMAND",
        help="what starts a run in place of python, such as"
        " 'torchrun --nproc-per-node 8'",
    )
    add(
        "--launch",
        default="",
        metavar="OPTIONS",
        help="make each run a job of `mm1 launch` with these options, such as"
        " '--on slurm --nodes 4 --time 24:00:00'",
    )
    add(
        "--on",
        choices=["here", "ray"],
        default="here",
        help="where runs are trained: as processes of this machine or as tasks of Ray"
        " (default: %(default)s); on Slurm by --launch",
    )
    add(
        "--ask",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="resources of each task, by Ray's names",
    )
    law = parser.add_argument_group(
        "the law of the learning rate (NAME is lr-law), without training"
    )
    law.add_argument(
        "--fit",
        type=Path,
        metavar="POINTS.csv",
        help="fit the law to points: params, lr, loss or score, and optionally seed",
    )
    law.add_argument(
        "--predict",
        type=or_override(positive),
        nargs="+",
        default=[],
        metavar="PARAMS",
        help="print the learning rate for sizes such as 2.9e9",
    )


def _study(arguments: argparse.Namespace) -> int | None:
    from mm1.storage.remote_path import check_local

    kwargs = {
        key: value
        for key, value in vars(arguments).items()
        if key not in ("command", "trust", "resumes", *VERBOSITY)
    }
    if arguments.out is not None:
        check_local(arguments.out)
    return study_by_name(**kwargs)


def _print_law(
    names: Sequence[str], fit: Path | None, predict: Sequence[float]
) -> None:
    from mm1.config import ConfigError
    from mm1.recipes.lr_law import print_lr_law

    if list(names) != ["lr-law"]:
        raise ConfigError(
            f"--fit and --predict belong to lr-law, not to {' and '.join(names)}:"
            " `mm1 study lr-law --fit POINTS.csv` fits the points of any search"
        )
    print_lr_law(fit, predict)


def study_by_name(
    names: Sequence[str],
    out: Path | None,
    *,
    seeds: Sequence[int] | None = None,
    state: bool = False,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    launcher: str = "",
    launch: str = "",
    on: str = "here",
    ask: Sequence[str] = (),
    fit: Path | None = None,
    predict: Sequence[float] = (),
) -> int | None:
    """Runs the named studies in one folder, or one law of the learning rate.

    With `fit` or `predict` the law is only computed, and nothing is trained.

    Raises:
        ConfigError: there is no such study, no folder is given, or an option says
            nothing to what is asked for.
    """
    from mm1.catalog import check_studies, studies_named
    from mm1.config import ConfigError
    from mm1.miniature.lr_law import LR_STUDIES, lr_study, run_lr_study
    from mm1.study.run_studies import run_studies
    from mm1.study.statement import search_statement, statement

    training = {
        "--out": out,
        "--seeds": seeds,
        "keys to change": overrides,
        "--jobs": jobs,
        "--launcher": launcher,
        "--launch": launch,
        "--on": on != "here",
        "--ask": ask,
    }
    if fit or predict:
        refuse_beside(
            "--fit or --predict, which trains nothing,",
            training | {"--state": state},
        )
        return _print_law(names, fit, predict)
    if state:
        refuse_beside("--state, which trains nothing,", training)
    check_studies(names)
    laws = [name for name in names if name in LR_STUDIES]
    if laws and len(names) > 1:
        raise ConfigError(
            f"{' and '.join(names)}: run a law by itself; it may share the folder"
        )
    if state:
        said = (
            search_statement(lr_study(names[0]))
            if laws
            else statement(studies_named(names))
        )
        print(said, end="")
        return None
    if out is None:
        raise ConfigError(
            "a study needs --out, the folder for its runs and its page"
        )
    executor = _executor(on, ask, jobs, launcher, launch)
    if laws:
        return run_lr_study(
            names[0],
            out,
            seeds=seeds,
            executor=executor,
            overrides=overrides,
        )
    title = " \N{MIDDLE DOT} ".join(names)
    if list(names) == ["lessons"]:
        title = "MM1's lessons in miniature"
    return run_studies(
        title,
        studies_named(names),
        out,
        seeds=seeds,
        executor=executor,
        overrides=overrides,
    )


def _executor(
    on: str,
    ask: Sequence[str],
    jobs: int | None,
    launcher: str,
    launch: str,
) -> "Executor":
    """Raises ConfigError for options that contradict one another, and for resources
    that are not NAME=VALUE, or asked of this machine, which grants none."""
    from mm1.config import ConfigError
    from mm1.study.executors import LaunchExecutor, LocalExecutor, RayExecutor

    if launch:
        if launcher or ask or on != "here":
            raise ConfigError(
                "--launch says itself where runs are trained, and with what: leave out"
                " --launcher, --on and --ask"
            )
        return LaunchExecutor(shlex.split(launch), jobs)
    if on == "here" and ask:
        raise ConfigError(
            f"--ask {ask[0]} needs --on ray; runs on this machine share it"
        )
    resources = named_values(ask)
    if on == "ray":
        return RayExecutor(jobs, shlex.split(launcher), resources)
    return LocalExecutor(jobs, shlex.split(launcher))
