"""`mm1 import` and `mm1 export`: published weights in, a run's weights out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import add_command, add_out, add_trust

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands


def add_weights_commands(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "import",
        _import,
        "Turn a published model into a run folder to train from.",
    )
    parser.add_argument(
        "name",
        metavar="PATH_OR_ID",
        help="a folder, a GGUF file, or owner/model[@revision] on the Hugging Face hub",
    )
    add_out(parser, "DIR", "the run folder to write")
    add_trust(parser)
    parser.add_argument(
        "--pickle",
        action="store_true",
        help="read pickled weights, with torch.load(weights_only=True)",
    )

    parser = add_command(
        commands,
        "export",
        _export,
        "Write a finished run in the Hugging Face format, or as GGUF.",
        "With tokenizer, image processor and model card; transformers opens it without"
        " mm1.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    add_out(parser, "DIR", "the folder to write")
    add_trust(parser)
    parser.add_argument(
        "--part",
        choices=["encoder", "decoder"],
        help="only the image encoder or the decoder of a larger model",
    )
    parser.add_argument(
        "--format",
        choices=["transformers", "gguf"],
        default="transformers",
        help="gguf: the decoder for llama.cpp, as one file in the folder (default:"
        " transformers)",
    )


def _import(arguments: argparse.Namespace) -> None:
    from mm1.export.import_model import import_model

    import_model(arguments.name, arguments.out, pickle=arguments.pickle)


def _export(arguments: argparse.Namespace) -> None:
    from mm1.export.export_run import export_run

    export_run(
        arguments.run,
        arguments.out,
        part=arguments.part,
        file_format=arguments.format,
    )
