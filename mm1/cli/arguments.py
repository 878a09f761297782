"""What commands have in common: how one is added, and overrides."""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mm1.ranges import Range

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


CONFIG = "a recipe (see `mm1 list`), a run folder or a config.json"
VERBOSITY = {"quiet": "MM1_QUIET", "verbose": "MM1_VERBOSE"}
"""Option -> a variable of the environment, for what a command starts (`mm1.dist`)."""


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    """The options -q and -v, which may stand before or after a command."""
    group = parser.add_mutually_exclusive_group()
    add = group.add_argument
    add(
        "-q",
        "--quiet",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print results and errors alone: no progress",
    )
    add(
        "-v",
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="also print a run's whole config, and where in the code an error arose",
    )


def set_verbosity(arguments: argparse.Namespace) -> None:
    """For this process and those that it starts."""
    for option, variable in VERBOSITY.items():
        if getattr(arguments, option, False):
            os.environ[variable] = "1"


def add_command(
    commands: "Commands",
    name: str,
    function: Callable[[argparse.Namespace], int | None],
    summary: str,
    details: str = "",
    *,
    resumes: bool = False,
) -> argparse.ArgumentParser:
    """The parser of a command that calls `function`, which may return an exit code.
    `resumes`: interrupted, and called again, it goes on where it was."""
    about = f"{summary} {details}".strip()
    parser = commands.add_parser(name, help=summary, description=about)
    parser.set_defaults(command=function, resumes=resumes)
    add_verbosity(parser)
    return parser


def add_overrides(parser: argparse.ArgumentParser, help: str) -> None:  # noqa: A002
    """The positional `a.b=value` words of a command."""
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=value", help=help
    )


def add_out(
    parser: argparse.ArgumentParser,
    metavar: str,
    help: str,  # noqa: A002
    **options: Any,
) -> None:
    """The option `--out`, without which a command does not start; a `metavar` of FILE
    says that it names a file, DIR a folder."""
    options = {"required": True} | options
    kind = _new_file if metavar.startswith("FILE") else _new_folder
    parser.add_argument(
        "--out", type=kind, metavar=metavar, help=help, **options
    )


def _new_file(word: str) -> Path:
    """Before any work is done for it."""
    if os.path.isdir(word):
        raise argparse.ArgumentTypeError(f"{word} is a folder: name a file")
    _new_folder(str(Path(word).parent))
    return Path(word)


def _new_folder(word: str) -> Path:
    """Before any work is done for it."""
    for each in (Path(word), *Path(word).parents):
        if os.path.isfile(each):
            raise argparse.ArgumentTypeError(
                f"{each} is a file: name another folder"
            )
    return Path(word)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """The option `--trust` of a command that reads configs, or takes class paths."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module or package outside mm1 whose classes configs may name, and whose"
        " code is run; may be repeated",
    )


def is_override(word: str) -> bool:
    """Is it `a.b=value`? In a path, a slash stands before the equals sign."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key and not key.startswith("-")


def or_override(number: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an option that takes several numbers, which overrides may follow."""

    def parse(word: str) -> Any:
        return word if is_override(word) else number(word)

    parse.__name__ = number.__name__  # argparse names it in its error
    return parse


def number_in(
    kind: Callable[[str], Any], allowed: Range
) -> Callable[[str], Any]:
    """The type of an option that takes a number of that kind in a range."""

    def parse(word: str) -> Any:
        if (value := kind(word)) not in allowed:
            raise argparse.ArgumentTypeError(f"must be {allowed}, not {word}")
        return value

    parse.__name__ = kind.__name__  # argparse names it in its error
    return parse


LARGEST = 2**31 - 1
"""More than this of anything is a slip of the keyboard."""
count = number_in(int, Range(1, LARGEST))
count_from_zero = number_in(int, Range(0, LARGEST))
port = number_in(int, Range(0, 2**16 - 1))
finite = number_in(float, Range())
share = number_in(float, Range(0, 1))
positive = number_in(float, Range(0, low_is_open=True))
non_negative = number_in(float, Range(0))


def add_quantize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quantize",
        choices=["int8"],
        help="hold the weights of linear maps in 8 bits (pip install 'mm1[quantize]')",
    )


def refuse_beside(option: str, others: Mapping[str, Any]) -> None:
    """
    Raises:
        ConfigError: one of the others is given (neither None nor False nor empty; 0 is
            given), which would say nothing beside the option.
    """
    from mm1.config import ConfigError

    if given := [
        name
        for name, value in others.items()
        if value is not None
        and value is not False
        and value not in ("", [], ())
    ]:
        raise ConfigError(
            f"{option} does without {', '.join(given)}: leave out one or the other"
        )


def named_values(ask: Sequence[str]) -> dict[str, Any]:
    """The resources of `--ask NAME=VALUE ...`; a value is JSON or text.

    Raises:
        ConfigError: one is not NAME=VALUE.
    """
    from mm1.config import ConfigError

    if wrong := [each for each in ask if "=" not in each]:
        raise ConfigError(
            f"--ask {wrong[0]}: NAME=VALUE, such as gpus_per_node=8"
        )
    return {
        name: _json_or_text(value)
        for name, _, value in (each.partition("=") for each in ask)
    }


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
