"""Commands that make data: `tokenizer`, `deduplicate`, `prepare`, `filter-captions`,
`recaption`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import (
    add_command,
    add_out,
    add_overrides,
    add_trust,
    count,
    finite,
    named_values,
    share,
)

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands


def add_data_commands(commands: "Commands") -> None:
    _add_tokenizer(commands)
    _add_deduplicate(commands)
    _add_prepare(commands)
    _add_filter_captions(commands)
    _add_recaption(commands)


def _add_tokenizer(commands: "Commands") -> None:
    parser = add_command(
        commands, "tokenizer", _tokenizer, "Train a tokenizer on text."
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="text files, tables with texts, captions, pages or conversations, tars of"
        " captions, or folders of them",
    )
    add_overrides(parser, "options of the source, such as source.messages=talk")
    add_out(parser, "FILE", "the tokenizer.json to write")
    parser.add_argument(
        "--field",
        default="",
        metavar="NAME",
        help="the field or column with the text, where it is not `text` or `caption`",
    )
    parser.add_argument(
        "--source",
        default="",
        metavar="SOURCE",
        help="how the files are read, as for `mm1 prepare`: text_files, hub or another"
        " one of `mm1 list sources` (default: by their names and fields)",
    )
    parser.add_argument(
        "--vocab-size",
        type=int,
        default=8192,
        metavar="N",
        help="number of tokens (default: %(default)s)",
    )


def _add_prepare(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "prepare",
        _prepare,
        "Turn raw data into the shards that training reads.",
        "The same command resumes one that was interrupted.",
        resumes=True,
    )
    _add_raw_data(parser)
    add_out(parser, "DIR", "the folder to write")
    add_trust(parser)
    parser.add_argument(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="PATH",
        help="a tokenizer.json, or a folder that has one",
    )
    parser.add_argument(
        "--validation",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="share of documents set aside for validation, such as 0.02 (default: 0)",
    )
    parser.add_argument(
        "--validation-by",
        choices=["text", "image"],
        help="documents with the same text, or the same first image, are never split"
        " between training and validation (default: text)",
    )
    parser.add_argument(
        "--workers",
        type=count,
        default=1,
        metavar="N",
        help="files read at a time, each in a process (default: %(default)s)",
    )
    parser.add_argument(
        "--on",
        choices=["processes", "ray"],
        default="processes",
        help="where files are read: processes of this machine, or tasks of a Ray"
        " cluster (default: %(default)s)",
    )


def _add_raw_data(parser: argparse.ArgumentParser) -> None:
    """The words that say what is read, and how."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="the raw format: captions, interleaved, text, instructions or another one"
        " of `mm1 list sources`",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="raw files, or folders of them"
    )
    add_overrides(
        parser,
        "options of the source and filters, such as source.field=recaption"
        " filters=web_pages filters.images.min_side=100",
    )


def _add_deduplicate(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "deduplicate",
        _deduplicate,
        "Find copies among raw data of any size, for `mm1 prepare` to leave out.",
        "The same command resumes one that was interrupted.",
        resumes=True,
    )
    _add_raw_data(parser)
    add_out(
        parser,
        "DIR",
        "the folder to write, for filters.duplicates.verdicts=DIR of `mm1 prepare`",
    )
    add_trust(parser)
    parser.add_argument(
        "--tasks",
        type=count,
        metavar="N",
        help="blocks of files that are read on their own, at most (default: 500)",
    )
    parser.add_argument(
        "--workers",
        type=count,
        default=1,
        metavar="N",
        help="tasks at a time, here or on Slurm (default: %(default)s here, all on"
        " Slurm)",
    )
    parser.add_argument(
        "--on",
        choices=["processes", "ray", "slurm"],
        default="processes",
        help="where tasks run: processes of this machine, tasks of a Ray cluster, or"
        " jobs of Slurm (default: %(default)s)",
    )
    parser.add_argument(
        "--ask",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the Slurm jobs by datatrove's names, such as partition=cpu"
        " time=8:00:00 mem_per_cpu_gb=8",
    )


def _add_filter_captions(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "filter-captions",
        _filter_captions,
        "Copy prepared captions without those of low CLIP score.",
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a CLIP: a finished run, or an imported model",
    )
    parser.add_argument(
        "prepared",
        type=Path,
        metavar="PREPARED",
        help="a folder of prepared captions",
    )
    add_out(parser, "DIR", "the folder to write")
    add_trust(parser)
    parser.add_argument(
        "--keep",
        type=share,
        metavar="SHARE",
        help="share of pairs to keep, those with the highest scores",
    )
    parser.add_argument(
        "--min-score",
        type=finite,
        metavar="COSINE",
        help="least cosine between image and caption to keep a pair",
    )
    parser.add_argument(
        "--workers",
        type=count,
        default=1,
        metavar="N",
        help="processes that write (default: %(default)s)",
    )


def _add_recaption(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "recaption",
        _recaption,
        "Caption prepared images with a model, as a table.",
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="a model that generates text: a finished run, or an imported model",
    )
    parser.add_argument(
        "prepared",
        type=Path,
        metavar="PREPARED",
        help="a folder of prepared captions",
    )
    add_out(
        parser, "DIR", "folder for parquet files with file, key and caption"
    )
    add_trust(parser)
    parser.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help='what follows the image, such as "A photo of"',
    )
    parser.add_argument(
        "--max-tokens",
        type=count,
        default=64,
        metavar="N",
        help="longest caption, in tokens (default: %(default)s)",
    )


def _tokenizer(arguments: argparse.Namespace) -> None:
    from mm1.config import ConfigError
    from mm1.data.tokenizer import train_tokenizer
    from mm1.overrides import default_config, override
    from mm1.prepare.preparation import Preparation
    from mm1.prepare.sources import Source
    from mm1.prepare.tokenizer_texts import TokenizerTexts
    from mm1.storage.remote_path import as_path

    source = None
    if arguments.source:
        config = Preparation.Config(
            source=default_config(Source, arguments.source)
        )
        field = arguments.field
        for assignment in [
            *([f"source.field={field}"] if field else []),
            *arguments.overrides,
        ]:
            override(config, assignment)
        source = config.source.build()
    elif arguments.overrides:
        raise ConfigError(
            f"{arguments.overrides[0]} is an option of a source: name it (--source)"
        )
    texts = TokenizerTexts(
        [as_path(path) for path in arguments.paths],
        field=arguments.field,
        source=source,
    )
    made = train_tokenizer(
        texts, arguments.out, vocab_size=arguments.vocab_size
    )
    print(
        f"{arguments.out}: {made.vocab_size} tokens, fingerprint {made.fingerprint},"
        f" from {texts.num_texts:,} texts"
    )
    if left_out := texts.summary():
        print(f"  left out: {left_out}")


def _prepare(arguments: argparse.Namespace) -> None:
    from mm1.config import ConfigError
    from mm1.prepare.pipeline import prepare
    from mm1.recipes.filters import preparation_config
    from mm1.storage.remote_path import as_path

    config = preparation_config(
        arguments.source,
        arguments.overrides,
        validation=arguments.validation,
        validation_by=arguments.validation_by or "text",
    )
    if arguments.validation_by and not config.validation:
        raise ConfigError(
            "--validation-by says nothing without a share of --validation"
        )
    prepare(
        config,
        [as_path(path) for path in arguments.paths],
        arguments.out,
        arguments.tokenizer,
        workers=arguments.workers,
        on=arguments.on,
    )


def _deduplicate(arguments: argparse.Namespace) -> None:
    from mm1.config import ConfigError
    from mm1.prepare.deduplicate_files import MAX_TASKS, deduplicate
    from mm1.recipes.filters import preparation_config
    from mm1.storage.remote_path import as_path

    if arguments.ask and arguments.on != "slurm":
        raise ConfigError(f"--ask {arguments.ask[0]} needs --on slurm")
    deduplicate(
        preparation_config(arguments.source, arguments.overrides),
        [as_path(path) for path in arguments.paths],
        arguments.out,
        workers=arguments.workers,
        on=arguments.on,
        tasks=MAX_TASKS if arguments.tasks is None else arguments.tasks,
        slurm=named_values(arguments.ask),
    )


def _filter_captions(arguments: argparse.Namespace) -> None:
    from mm1.infer.filter_captions import filter_captions
    from mm1.runs.weights import load_trained

    trained, name = load_trained(arguments.run)
    filter_captions(
        trained,
        arguments.prepared,
        arguments.out,
        model=name,
        keep=arguments.keep,
        min_score=arguments.min_score,
        workers=arguments.workers,
    )


def _recaption(arguments: argparse.Namespace) -> None:
    from mm1.infer.recaption import recaption
    from mm1.runs.weights import load_trained

    trained, name = load_trained(arguments.run)
    recaption(
        trained,
        arguments.prepared,
        arguments.out,
        model=name,
        prompt=arguments.prompt,
        max_tokens=arguments.max_tokens,
    )
