"""The command line. A file here holds the commands of one kind, each a parser and one
function; heavy imports wait until that function runs, so that help answers at once."""

import argparse
import difflib
import errno
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import mm1
from mm1.cli.arguments import (
    add_verbosity,
    is_override,
    set_verbosity,
)
from mm1.cli.chat import add_chat_command
from mm1.cli.completion import add_completion_command
from mm1.cli.data import add_data_commands
from mm1.cli.launch import add_launch_command
from mm1.cli.list import add_list_command
from mm1.cli.plan import add_plan_command
from mm1.cli.report import add_report_command
from mm1.cli.run import add_demo_command, add_run_commands
from mm1.cli.show import add_show_command
from mm1.cli.study import add_study_command
from mm1.cli.weights import add_weights_commands
from mm1.launch.final_exit import end_restarts

GOES_ON = "the same command goes on from there"

REMEDIES = {
    errno.EACCES: "permission denied: change its permissions, or",
    errno.EPERM: "permission denied: change its permissions, or",
    errno.EROFS: "read-only file system:",
    errno.EEXIST: "there is a file already:",
    errno.ENOTDIR: "a file is where a folder has to be:",
    errno.EISDIR: "a folder is where a file has to be:",
}
"""What is the matter with a file, by the system's number."""


def main() -> None:
    """Runs one command.

    A user's mistake is one line and exit code 2. A diverged run exits with 3, one that
    has lost a rank with 69, that cannot save with 74, that has saved a checkpoint on a
    signal with 75, and what was interrupted at once with 130.
    """
    arguments = parse_arguments()
    # Before torch is loaded: threads that wait by spinning are many times slower as
    # soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "RANK" in os.environ:
        # Frames of C++ wherever a socket closes; `mm1.lost_ranks` says what it means.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # It may be killed while torch is loaded (see `dist.start`).
        os.environ["MM1_LAUNCHER_PID"] = str(os.getppid())
    from mm1.config import UserError, trust
    from mm1.storage.remote_path import as_path

    try:
        for name, value in vars(arguments).items():
            if isinstance(value, Path):
                setattr(arguments, name, as_path(value))
            elif name == "runs":
                value[:] = map(as_path, value)
        for module in getattr(arguments, "trust", ()):
            trust(module)
        code = arguments.command(arguments) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = _interrupted(arguments)
    except BrokenPipeError:  # of `mm1 list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (UserError, OSError) as error:
        if getattr(arguments, "verbose", False):
            traceback.print_exc()
        if not getattr(error, "said", False):
            print(
                f"mm1: {remedy(error, arguments.resumes) or error}",
                file=sys.stderr,
            )
        code = getattr(error, "exit_code", 2)
        if isinstance(error, (UserError, FileNotFoundError)):
            end_restarts(code)
    sys.exit(code)


def _interrupted(arguments: argparse.Namespace) -> int:
    """Says whether a command that was ended at once can be called again."""
    again = f"; {GOES_ON}" if arguments.resumes else ""
    print(f"mm1: interrupted{again}", file=sys.stderr)
    return 130


def remedy(error: Exception, resumes: bool) -> str | None:
    """What is the matter with a file of this machine, and what to do, or None if the
    error is of another kind. A write that fails does not say where. `resumes`: calling
    the command again goes on where it failed."""
    if not isinstance(error, OSError):
        return None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f"{error.filename}: " if error.filename else ""
        again = f"; then {GOES_ON}" if resumes else ""
        return f"{where}the disk or your quota is full: make room{again}"
    if error.errno == errno.ENOENT and error.filename:
        return f"there is no {error.filename}"
    said = REMEDIES.get(error.errno or 0)
    # Of a rename the second is where the file was to be.
    path = error.filename2 or error.filename
    return f"{path}: {said} use another path" if path and said else None


def parse_arguments() -> argparse.Namespace:
    """The command's arguments. Overrides may stand anywhere; argparse alone takes them
    only where they follow the other positional words."""
    parser = command_parser()
    arguments, others = parser.parse_known_args()
    overrides: list[str] | None = getattr(arguments, "overrides", None)
    for other in others:
        if overrides is None or not is_override(other):
            parser.error(f"unrecognized arguments: {other}")
        overrides.append(other)
    for name in ("names", "paths", "benchmarks", "seeds", "shots", "predict"):
        if overrides is not None and (words := getattr(arguments, name, None)):
            mixed = [w for w in words if isinstance(w, str) and is_override(w)]
            overrides[:0] = mixed
            words[:] = [word for word in words if word not in mixed]
            if not words:
                parser.error(f"nothing but overrides: {' '.join(overrides)}")
    set_verbosity(arguments)
    return arguments


class Parser(argparse.ArgumentParser):
    """Names the nearest command for one that there is not."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if isinstance(action, argparse._SubParsersAction):
            known = action.choices
            if value not in known and (
                close := difflib.get_close_matches(value, known, 1)
            ):
                raise argparse.ArgumentError(
                    None, f"no command {value!r}; did you mean {close[0]!r}?"
                )
        super()._check_value(action, value)


def command_parser() -> argparse.ArgumentParser:
    """That of `mm1`, with a parser for each command."""
    parser = Parser(
        "mm1",
        description="Multimodal pre-training as in MM1, from raw data to scores.",
        epilog="`mm1 COMMAND --help` explains a command.",
    )
    parser.add_argument(
        "--version", action="version", version=f"mm1 {mm1.__version__}"
    )
    add_verbosity(parser)
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    add_demo_command(commands)
    add_list_command(commands)
    add_data_commands(commands)
    add_show_command(commands)
    add_run_commands(commands)
    add_report_command(commands)
    add_chat_command(commands)
    add_plan_command(commands)
    add_launch_command(commands)
    add_study_command(commands)
    add_weights_commands(commands)
    add_completion_command(commands, command_parser)
    return parser
