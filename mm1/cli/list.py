"""`mm1 list`: what has a name on the command line."""

import argparse
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from mm1.cli.arguments import add_command

if TYPE_CHECKING:
    from mm1.catalog import Entry
    from mm1.cli.arguments import Commands

GROUPS = {
    "recipes": "mm1 train NAME --out DIR",
    "studies": "mm1 study NAME --out DIR",
    "sources": "mm1 prepare NAME PATHS --out DIR --tokenizer FILE",
    "benchmarks": "benchmarks.ANY=NAME",
    "classes": "benchmarks.ANY.data=NAME",
    "connectors": "model.connector=NAME",
    "optimizers": "optimizer=NAME",
    "schedulers": "scheduler=NAME",
}
"""Group -> how its names are used."""


def add_list_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "list",
        _list,
        "List what has a name: recipes, studies and components.",
        "The size of a recipe is its parameters without the embeddings of the"
        " vocabulary, that of a study its runs for each seed.",
    )
    parser.add_argument(
        "group",
        nargs="?",
        choices=tuple(GROUPS),
        metavar="GROUP",
        help=f"{', '.join(GROUPS)}; by default all",
    )


def _list(arguments: argparse.Namespace) -> None:
    from mm1.catalog import entries

    chosen = arguments.group
    for group in [chosen] if chosen else GROUPS:
        print(f"{group} ({GROUPS[group]})")
        print_entries(entries(group))


def print_entries(entries: "list[Entry]") -> None:
    """One line each; on a terminal wrapped, with what an entry needs below it."""
    is_terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns
    name_width = max(len(entry.name) for entry in entries)
    size_width = max(len(entry.size) for entry in entries)
    for entry in entries:
        head = f"  {entry.name:{name_width}}  "
        if size_width:
            head += f"{entry.size:>{size_width}}  "
        if not is_terminal:
            needs = f" [{entry.needs}]" if entry.needs else ""
            print(f"{head}{entry.summary}{needs}")
            continue
        indent = " " * len(head)
        wrap = textwrap.TextWrapper(
            max(columns, len(head) + 40),
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines = wrap.wrap(entry.summary) + wrap.wrap(entry.needs)
        print(head + "\n".join(lines)[len(head) :])
