"""`mm1 chat`: talk to finished runs."""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import (
    add_command,
    add_quantize,
    add_trust,
    count,
    non_negative,
    port,
    refuse_beside,
)

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands


HOST = "127.0.0.1"
PORT = 8000
MAX_LENGTH = 8_192


def add_chat_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "chat",
        _chat,
        "Talk to one or two finished runs: a page and OpenAI's API.",
        "On another host than this one a token is needed: that of MM1_CHAT_TOKEN, or"
        " one that is printed.",
    )
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="a run folder, or two to compare",
    )
    add_trust(parser)
    add_quantize(parser)
    parser.add_argument(
        "--terminal", action="store_true", help="no server: talk here"
    )
    parser.add_argument(
        "--host",
        help=f"where to listen; 0.0.0.0 for every interface (default: {HOST})",
    )
    parser.add_argument(
        "--port",
        type=port,
        help=f"0 takes a free one (default: {PORT})",
    )
    parser.add_argument(
        "--max-length",
        type=count,
        metavar="N",
        help=f"most tokens of prompt and answer (default: {MAX_LENGTH})",
    )
    parser.add_argument(
        "--temperature",
        type=non_negative,
        help="with --terminal; 0 is greedy (default: 0)",
    )


def _chat(arguments: argparse.Namespace) -> None:
    from mm1.chat.server import serve
    from mm1.config import ConfigError

    if len(arguments.runs) > (1 if arguments.terminal else 2):
        raise ConfigError(
            f"{len(arguments.runs)} runs; a terminal talks to one, a page to two"
        )
    if not arguments.terminal:
        if arguments.temperature is not None:
            raise ConfigError(
                "--temperature is that of --terminal; the page and requests have their"
                " own"
            )
        serve(
            arguments.runs,
            host=HOST if arguments.host is None else arguments.host,
            port=PORT if arguments.port is None else arguments.port,
            max_length=arguments.max_length or MAX_LENGTH,
            quantization=arguments.quantize,
        )
        return
    refuse_beside(
        "--terminal",
        {
            "--host": arguments.host,
            "--port": arguments.port,
            "--max-length": arguments.max_length,
        },
    )
    from mm1.chat.terminal import HELP, Terminal
    from mm1.infer.sampling import Sampling
    from mm1.loaded_run import load_runs

    (run,) = load_runs(arguments.runs, quantization=arguments.quantize).values()
    # Bytes that are not UTF-8 are refused line by line, and may be shown.
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    print(HELP)
    terminal = Terminal(
        run,
        max_tokens=256,
        sampling=Sampling(temperature=arguments.temperature or 0.0),
        write=_write,
    )
    terminal.talk(_lines())


def _write(text: str) -> None:
    print(text, end="", flush=True)


def _lines() -> Iterator[str]:
    """What is typed, with a prompt where somebody types."""
    while True:
        if sys.stdin.isatty():
            _write("> ")
        if not (line := sys.stdin.readline()):
            return
        yield line
