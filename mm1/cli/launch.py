"""`mm1 launch`: a run on several nodes, here or on a cluster."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import (
    CONFIG,
    add_command,
    add_out,
    add_overrides,
    add_trust,
    refuse_beside,
)

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands
    from mm1.launch.job import TrainingJob


SETUP = "pip install ."


def add_launch_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "launch",
        _launch,
        "Train a recipe on several nodes: here, on Slurm, SkyPilot or Kubernetes.",
        "Writes and submits the job: torchrun on every node, each start from the newest"
        " checkpoint, new starts after failures and ahead of the time limit, and a log"
        " for each rank. The same command goes on with a run that was stopped.",
    )
    add = parser.add_argument
    add("name", metavar="NAME", help=CONFIG)
    add_overrides(parser, "keys to change, as for `mm1 train`")
    add_out(parser, "DIR", "the run folder, which all nodes must share")
    add_trust(parser)
    add(
        "--on",
        choices=["here", "slurm", "skypilot", "kubernetes"],
        default="here",
        help="where it runs (default: %(default)s, every node an agent of torchrun on"
        " this machine)",
    )
    add(
        "--print",
        action="store_true",
        dest="only_print",
        help="print the script or file, and start nothing",
    )
    add(
        "--wait",
        action="store_true",
        help="with Slurm: wait until the run has ended, and exit as `mm1 train` would",
    )
    _add_size(parser)
    _add_limits(parser)
    _add_cluster(parser)


def _add_size(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("size")
    group.add_argument(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="number of machines (default: %(default)s)",
    )
    group.add_argument(
        "--gpus-per-node",
        type=int,
        metavar="N",
        help="0 trains on CPUs (default: 8, and here what there is)",
    )
    group.add_argument(
        "--gpu",
        default="",
        metavar="TYPE",
        help="the type of GPU as the scheduler names it, such as h100",
    )
    group.add_argument(
        "--processes-per-node",
        type=int,
        metavar="N",
        help="ranks of a node (default: one for each GPU, or one)",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("time and failures")
    group.add_argument(
        "--time",
        default="",
        metavar="LIMIT",
        help="Slurm's time limit, such as 24:00:00; the job saves, and is queued again,"
        " ahead of it",
    )
    group.add_argument(
        "--max-restarts",
        type=int,
        default=3,
        metavar="N",
        help="how often torchrun starts ranks again, and how often in a row the job is"
        " started again without a new checkpoint in between (default: %(default)s)",
    )
    group.add_argument(
        "--shutdown-timeout",
        type=int,
        default=120,
        metavar="SECONDS",
        help="time to save a checkpoint in when the job is told to stop (default:"
        " %(default)s)",
    )


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("clusters")
    add = group.add_argument
    add(
        "--job-name",
        default="",
        metavar="NAME",
        help="(default: from the run folder's)",
    )
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of sbatch (partition=gpu, exclusive), of SkyPilot's resources"
        " (infra=aws, use_spot=true), or a label of Kubernetes' nodes; may be repeated",
    )
    add("--image", default="", metavar="IMAGE", help="a container's image")
    add(
        "--mount",
        action="append",
        default=[],
        metavar="SOURCE:PATH",
        help="storage that nodes see as PATH: a host's folder (Slurm with --image), a"
        " volume or bucket (SkyPilot), a persistent volume claim (Kubernetes); may be"
        " repeated",
    )
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an environment variable of the nodes; may be repeated",
    )
    add(
        "--python",
        default="",
        metavar="FILE",
        help="the Python of the nodes, which has mm1 (default: this one on this machine"
        " and on Slurm, else python)",
    )
    add(
        "--setup",
        metavar="COMMAND",
        help="SkyPilot runs it on each new machine, in a copy of this folder (default:"
        f" {SETUP})",
    )


def _launch(arguments: argparse.Namespace) -> int:
    from mm1.launch.targets import TARGETS

    target = TARGETS[arguments.on]
    job = _job(arguments)
    target.check(job)
    if arguments.only_print:
        refuse_beside("--print", {"--wait": arguments.wait})
        print(target.text(job), end="")
        return 0
    return target.start_and_wait(job) if arguments.wait else target.start(job)


def _job(arguments: argparse.Namespace) -> "TrainingJob":
    """Raises ConfigError for a malformed or impossible option, or a config that the
    ranks cannot share."""
    from mm1.catalog import run_config
    from mm1.config import ConfigError
    from mm1.dist import say
    from mm1.launch.batches import micro_batch_override
    from mm1.launch.job import Mount, Setting, TrainingJob, job_name
    from mm1.runs.layout import checkpoint_steps
    from mm1.storage.remote_path import RemotePath, as_path

    if isinstance(as_path(arguments.out), RemotePath):
        raise ConfigError(
            f"--out {arguments.out}: nodes keep logs and exit codes in the run folder:"
            " choose a folder that all of them see, or write the job by hand, with"
            " `mm1 train ... --resume`, as docs/storage.md says"
        )
    shares_files = arguments.on in ("here", "slurm")
    out = arguments.out.absolute() if shares_files else arguments.out
    name = arguments.name
    if shares_files and Path(name).exists():
        name = str(Path(name).absolute())
    gpus = arguments.gpus_per_node
    if gpus is None:
        gpus = _gpus_here(arguments.nodes) if arguments.on == "here" else 8
    python = arguments.python
    if not python:
        is_ours = shares_files and not arguments.image
        python = sys.executable if is_ours else "python"
    processes = arguments.processes_per_node or gpus or 1
    resumes = shares_files and checkpoint_steps(out)
    config = run_config(str(out) if resumes else name, arguments.overrides)
    fitting = micro_batch_override(config, arguments.nodes * processes)
    if fitting is not None:
        say(
            f"{fitting}: micro-batches that {arguments.nodes * processes} ranks share"
        )
    return TrainingJob(
        train=(
            name,
            *arguments.overrides,
            *([fitting] if fitting else []),
            *(f"--trust={module}" for module in arguments.trust),
        ),
        out=out,
        workdir=Path.cwd(),
        name=arguments.job_name or job_name(out),
        python=python,
        nodes=arguments.nodes,
        gpus_per_node=gpus,
        processes=processes,
        gpu=arguments.gpu,
        time=arguments.time,
        max_restarts=arguments.max_restarts,
        shutdown_timeout=arguments.shutdown_timeout,
        image=arguments.image,
        mounts=tuple(
            Mount(*_parts("--mount", word, ":", "SOURCE:PATH"))
            for word in arguments.mount
        ),
        environment=tuple(
            Setting(*_parts("--env", word, "=", "NAME=VALUE"))
            for word in arguments.env
        ),
        setup=_setup(arguments),
        options=dict(_option(word) for word in arguments.option),
    )


def _setup(arguments: argparse.Namespace) -> str:
    if arguments.setup is None and arguments.on == "skypilot":
        return SETUP
    return arguments.setup or ""


def _gpus_here(nodes: int) -> int:
    """The GPUs of this machine, shared out among nodes."""
    import torch

    return torch.cuda.device_count() // max(1, nodes)


def _parts(option: str, word: str, between: str, shape: str) -> tuple[str, str]:
    """Splits at the last colon of a mount (a bucket's address has one, too), and the
    first equals sign of a setting."""
    from mm1.config import ConfigError

    split = word.rpartition if between == ":" else word.partition
    first, found, second = split(between)
    if not (first and found and second) or "\n" in word:
        raise ConfigError(f"{option} {word}: {shape}")
    return first, second


def _option(word: str) -> tuple[str, str]:
    """An option without a value, such as Slurm's exclusive, is a word by itself."""
    from mm1.config import ConfigError

    name, _, value = word.partition("=")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._/-]*", name) or "\n" in value:
        raise ConfigError(f"--option {word}: NAME=VALUE, such as partition=gpu")
    return name, value
