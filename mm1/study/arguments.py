"""What `mm1 study` takes on the command line; a file of its own, so that help needs no
torch."""

from argparse import ArgumentParser
from pathlib import Path


def add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "words",
        nargs="+",
        metavar="NAME_OR_OVERRIDE",
        help="`list` shows names; overrides are [STAGE:]a.b=value",
    )
    add(
        "--out",
        type=Path,
        help="folder for runs and pages; finished runs in it are not trained again",
    )
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add(
        "--jobs",
        type=int,
        help="runs at a time; default: one for each core here, all of them elsewhere",
    )
    add(
        "--launcher",
        default="",
        help=(
            "what starts a run in place of python, such as 'torchrun"
            " --nproc-per-node 8'"
        ),
    )
    add(
        "--on",
        choices=["here", "slurm", "ray"],
        default="here",
        help="processes on this machine, or jobs of a cluster",
    )
    add(
        "--ask",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="resources of each job, by submitit's or Ray's names",
    )
    law = parser.add_argument_group("lr-law")
    law.add_argument(
        "--fit",
        type=Path,
        metavar="POINTS.csv",
        help="columns params, lr, loss or score, and optionally seed",
    )
    law.add_argument(
        "--predict",
        type=float,
        nargs="+",
        default=[],
        metavar="PARAMS",
        help="sizes, such as 2.9e9",
    )
