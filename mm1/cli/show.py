"""`mm1 show`: a config spelled out, each field with what it means."""

import argparse
import textwrap
from typing import TYPE_CHECKING

from mm1.cli.arguments import (
    CONFIG,
    add_command,
    add_overrides,
    add_trust,
)

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands

WIDTH = 88


def add_show_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "show",
        _show,
        "Print a config in full, and what its fields mean.",
        "With -q keys and values alone.",
    )
    parser.add_argument("name", metavar="NAME", help=CONFIG)
    add_overrides(parser, "keys to change, such as steps=100")
    add_trust(parser)


def _show(arguments: argparse.Namespace) -> None:
    from mm1.catalog import run_config
    from mm1.config import flatten, to_text
    from mm1.dist import is_quiet
    from mm1.field_docs import explanations

    config = run_config(arguments.name, arguments.overrides)
    if is_quiet():
        print(to_text(config), end="")
        return
    texts = explanations(config)
    for key, value in flatten(config).items():
        if key in texts:
            lines = textwrap.wrap(
                texts[key], WIDTH, initial_indent="# ", subsequent_indent="# "
            )
            print("", *lines, sep="\n")
        print(f"{key} = {value!r}")
