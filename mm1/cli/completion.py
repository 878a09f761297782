"""`mm1 completion SHELL`: a script that completes commands, options and names. Written
by shtab once, so that a completion starts no Python."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mm1.cli.arguments import CONFIG, add_command

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands

SHELLS = ("bash", "zsh", "tcsh")
NAMED = {
    "_mm1_recipe": "recipes",
    "_mm1_study": "studies",
    "_mm1_source": "sources",
}
"""Function of the script -> the group of `mm1 list` whose names it offers."""
FUNCTIONS = {
    "bash": '{name}() {{ compgen -W "{words}" -- "$1"; compgen -f -- "$1"; }}',
    "zsh": "{name}() {{ compadd {words}; _files }}",
}


def add_completion_command(
    commands: "Commands", parser: Callable[[], argparse.ArgumentParser]
) -> None:
    """`parser` makes the parser of all commands, which is then marked."""
    command = add_command(
        commands,
        "completion",
        lambda arguments: _completion(arguments, parser()),
        "Print a script that completes commands in a shell.",
        "bash: `mm1 completion bash > ~/.mm1.bash`, and `source ~/.mm1.bash` in"
        " ~/.bashrc; zsh: `mm1 completion zsh > ~/.zfunc/_mm1`, with ~/.zfunc in"
        " fpath. Needs mm1[completion].",
    )
    command.add_argument(
        "shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS)
    )


def _completion(
    arguments: argparse.Namespace, parser: argparse.ArgumentParser
) -> None:
    from mm1.catalog import names_of
    from mm1.extras import needs_extra

    with needs_extra("completion", "mm1 completion"):
        import shtab  # type: ignore[import-untyped]

    _mark(parser, shtab)
    functions = []
    for name, group in NAMED.items():
        words = " ".join(names_of(group))
        if template := FUNCTIONS.get(arguments.shell):
            functions.append(template.format(name=name, words=words))
    preamble = "\n".join(functions)
    print(shtab.complete(parser, arguments.shell, preamble=preamble))


def _mark(parser: argparse.ArgumentParser, shtab: Any) -> None:
    """Says of each argument what completes it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                _mark(each, shtab)
        elif action.help == CONFIG or action.dest == "recipe":
            _offer(action, "_mm1_recipe", shtab)
        elif action.dest == "source" and not action.option_strings:
            _offer(action, "_mm1_source", shtab)
        elif action.metavar == "NAME" and action.dest == "names":
            _offer(action, "_mm1_study", shtab)
        elif action.metavar in ("PATH", "DIR", "FILE", "RUN", "PREPARED"):
            _offer(action, "", shtab)


def _offer(action: Any, function: str, shtab: Any) -> None:
    shells = dict.fromkeys(FUNCTIONS, function) if function else {}
    action.complete = dict(shtab.FILE) | shells
