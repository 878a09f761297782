"""`mm1 demo`, and what is done with a recipe or a run: `diff`, `view`, `train` and
`eval`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mm1.cli.arguments import (
    CONFIG,
    add_command,
    add_out,
    add_overrides,
    add_quantize,
    add_trust,
    count,
    count_from_zero,
    or_override,
    positive,
)

if TYPE_CHECKING:
    from mm1.cli.arguments import Commands


def add_demo_command(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "demo",
        _demo,
        "Run all of MM1 in miniature: minutes on two CPU cores.",
        "Stop it at any time; the same command resumes.",
        resumes=True,
    )
    add_out(
        parser,
        "DIR",
        "folder for data, runs and report (default: %(default)s)",
        required=False,
        default=Path("runs/demo"),
    )


def add_run_commands(commands: "Commands") -> None:
    parser = add_command(
        commands,
        "diff",
        _diff,
        "Print what differs between two configs.",
        "With one name, print what the overrides change.",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help=CONFIG)
    add_overrides(parser, "keys to change in the second config")
    add_trust(parser)

    parser = add_command(
        commands,
        "view",
        _view,
        "Write an HTML page that shows packed sequences.",
        "Look at it before you train: images, text and loss mask, as the model gets"
        " them.",
    )
    parser.add_argument("name", metavar="NAME", help=CONFIG)
    add_overrides(
        parser, "keys to change, such as loader.sources.text=data/text"
    )
    add_out(parser, "FILE", "the page to write")
    add_trust(parser)
    parser.add_argument(
        "--rows",
        type=count,
        default=6,
        metavar="N",
        help="number of packed sequences (default: %(default)s)",
    )

    parser = add_command(
        commands,
        "train",
        _train,
        "Train a recipe.",
        "`torchrun --nproc-per-node 8 -m mm1.cli train ...` does so on several GPUs."
        " Exit codes: 2 a mistake, 3 diverged; with --resume the same command goes on"
        " after 75, stopped by a signal, and 69, another rank was lost.",
    )
    parser.add_argument("name", metavar="NAME", help=CONFIG)
    add_overrides(
        parser,
        "keys to change, such as optimizer.peak_lr=1e-3 or"
        " model.connector=average_pool; `mm1 show` prints all keys, `mm1 list` all"
        " components",
    )
    add_out(parser, "DIR", "the run folder")
    add_trust(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the run folder's newest checkpoint, if it has one",
    )
    parser.add_argument(
        "--shutdown-timeout",
        type=positive,
        metavar="SECONDS",
        help="for saving a checkpoint after Ctrl-C, SIGTERM or the like; then the run"
        " ends without (default: 25 under torchrun, which kills after 30 unless its own"
        " --shutdown-timeout says otherwise; elsewhere as long as it takes). The exit"
        " code is 75; torchrun's is 1",
    )

    parser = add_command(
        commands, "eval", _eval, "Evaluate a finished run on benchmarks."
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run folder")
    add_overrides(
        parser,
        "keys to change, such as benchmarks.coco=coco"
        " benchmarks.coco.images=data/coco; `mm1 list benchmarks` shows all",
    )
    parser.add_argument(
        "--benchmarks",
        nargs="+",
        metavar="NAME",
        help="which of the config's benchmarks to run (default: all)",
    )
    parser.add_argument(
        "--shots",
        nargs="+",
        type=or_override(count_from_zero),
        metavar="N",
        help="numbers of demonstrations in the prompt (default: the run's)",
    )
    parser.add_argument(
        "--controls",
        action="store_true",
        help="also with wrong, moved and bare labels in the shots, and with answers"
        " restricted to the choices, where a benchmark has a closed set of them",
    )
    add_out(
        parser,
        "DIR",
        "folder for predictions and scores (default: the run folder)",
        required=False,
    )
    add_trust(parser)
    add_quantize(parser)


def _demo(arguments: argparse.Namespace) -> int:
    from mm1.miniature.demo import run_demo
    from mm1.storage.remote_path import check_local

    check_local(arguments.out)
    return run_demo(arguments.out)


def _diff(arguments: argparse.Namespace) -> None:
    from mm1.catalog import run_config
    from mm1.config import ConfigError, differences

    names = arguments.names
    if len(names) > 2 or (len(names) == 1 and not arguments.overrides):
        raise ConfigError(
            "diff takes two configs, or one and overrides, not "
            + " ".join(names)
        )
    old = run_config(names[0])
    new = run_config(names[-1], arguments.overrides)
    for key, (before, after) in differences(old, new).items():
        print(f"{key}: {before!r} -> {after!r}")


def _view(arguments: argparse.Namespace) -> None:
    from mm1.catalog import run_config
    from mm1.data.prepared.shards import NotPrepared
    from mm1.next_steps import unprepared
    from mm1.report.packed_rows import packing_faults, view_rows
    from mm1.report.view import write_view

    config = run_config(arguments.name, arguments.overrides)
    try:
        rows = view_rows(config, arguments.rows)
    except NotPrepared as error:
        raise unprepared(error, arguments.name, config) from error
    faults = packing_faults(config)
    write_view(rows, arguments.out, title=arguments.name, why_not_full=faults)
    for fault in faults:
        print(fault)
    print(arguments.out)


def _train(arguments: argparse.Namespace) -> None:
    from mm1 import dist
    from mm1.api import open_trainer
    from mm1.lost_ranks import one_voice
    from mm1.next_steps import finished_run

    try:
        with one_voice():
            trainer = open_trainer(
                arguments.name,
                arguments.overrides,
                arguments.out,
                arguments.resume,
            )
            trainer.fit(shutdown_timeout=arguments.shutdown_timeout)
            dist.say(finished_run(arguments.out, trainer.config))
    finally:
        dist.stop()


def _eval(arguments: argparse.Namespace) -> None:
    from mm1 import dist
    from mm1.catalog import finished_run_config
    from mm1.eval.evaluate import evaluate_run, format_scores
    from mm1.lost_ranks import one_voice

    with one_voice():
        scores = evaluate_run(
            arguments.run,
            finished_run_config(arguments.run, arguments.overrides),
            names=arguments.benchmarks,
            shots=arguments.shots,
            controls=arguments.controls,
            out=arguments.out or arguments.run,
            quantization=arguments.quantize,
        )
    if dist.rank() == 0:
        print(format_scores(scores))
