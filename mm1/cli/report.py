"""`mm1 report`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import add_command, add_out

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands


def add_report_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "report",
        _report,
        "Write the pages of one run, or of several beside one another.",
        "Losses, speed, scores, every question with its answers, and how the configs"
        " differ; of finished runs and others. The folder opens without a network.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="a run folder, or what `mm1 eval RUN --out DIR` wrote",
    )
    add_out(
        parser,
        "DIR",
        "folder for the pages; a report in it is replaced (default: %(default)s)",
        required=False,
        default=Path("report"),
    )


def _report(arguments: argparse.Namespace) -> None:
    from mm1.report.run_report.write import write_run_report

    print(write_run_report(arguments.runs, arguments.out))
