"""Writes docs/commands.md, the page of all commands, from their parsers:

python docs/site/commands.py
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mm1.cli import command_parser

PAGE = Path(__file__).parents[1] / "commands.md"

HEAD = """# Commands

Written from the commands' own parsers by `python docs/site/commands.py`;
`mm1 COMMAND --help` says the same. `a.b=value` sets any key of a config, wherever it
stands in a command.
"""

GUIDES = {
    "demo": "demo.md",
    "tokenizer": "your-data.md",
    "deduplicate": "preparing.md#deduplicate-at-any-size",
    "prepare": "preparing.md",
    "train": "training.md",
    "eval": "few-shot.md",
    "report": "reports.md",
    "chat": "chat.md",
    "plan": "planning.md",
    "launch": "launch.md",
    "study": "studies.md",
    "import": "weights.md",
    "export": "export.md",
}
"""Where more is said of a command."""


def page() -> str:
    """The page as it should be."""
    commands = _commands(command_parser())
    rows = [
        f"| [`mm1 {each.dest}`](#mm1-{each.dest}) | {_cell(each.help or '')} |"
        for each in commands._choices_actions
    ]
    table = "\n".join(["| command | |", "|---|---|", *rows])
    sections = (_section(*each) for each in commands.choices.items())
    return "\n".join([HEAD, table, "", *sections])


def _commands(parser: argparse.ArgumentParser) -> Any:
    (group,) = (
        action
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return group


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    more = f" [More]({GUIDES[name]})." if name in GUIDES else ""
    words = " ".join(["mm1", name, *_words(parser)])
    rows = [
        f"| `{_name(action)}` | {_cell(_help(parser, action))} |"
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    table = "\n".join(["| | |", "|---|---|", *rows]) + "\n" if rows else ""
    about = f"{parser.description}{more}"
    return f"## mm1 {name}\n\n{about}\n\n    {words}\n\n{table}"


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """What must be given, and that there are options."""
    if any(not each.required for each in parser._actions[1:]):
        yield "[OPTIONS]"
    for action in parser._actions:
        if action.required and action.option_strings:
            yield f"{action.option_strings[-1]} {_value(action)}"
    for action in parser._actions:
        if not action.option_strings:
            optional = action.nargs in ("*", "?")
            yield f"[{_value(action)}]" if optional else _value(action)


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return _value(action)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {_value(action)}"


def _value(action: argparse.Action) -> str:
    if action.choices is not None and action.option_strings:
        one = ", ".join(map(str, action.choices))
    else:
        one = str(action.metavar or action.dest.upper())
    several = action.nargs in ("*", "+") or isinstance(action.nargs, int)
    return f"{one} ..." if several else one


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
    print(PAGE, file=sys.stderr)
