"""`mm1 demo`: all stages of MM1 in miniature, and a report. A second call resumes.

world      the miniature world as raw files, prepared into shards
encoder    a small ViT, by contrast with captions
decoder    a small language model, on text
pretrain   encoder + C-Abstractor + decoder, nothing frozen, 45/45/10
finetune   on instructions, at a higher resolution, with sub-images
"""

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mm1 import dist
from mm1.eval.evaluate import evaluate_run
from mm1.files import write_json
from mm1.miniature import recipes as miniature
from mm1.miniature.checks import check_demo
from mm1.miniature.report import write_report
from mm1.miniature.score_table import MEANING, score_table, zero_shot_prompts
from mm1.miniature.world.prepared import prepare_world
from mm1.report.packed_rows import packing_layout
from mm1.runs import layout
from mm1.runs.description import finished, read_config
from mm1.runs.results import RunFolder
from mm1.train.shutdown import Interrupted
from mm1.train.trainer import Trainer

STAGES: dict[str, Callable[[str], Trainer.Config]] = {
    "encoder": miniature.miniature_encoder,
    "decoder": miniature.miniature_decoder,
    "pretrain": miniature.miniature_pretrain,
    "finetune": miniature.miniature_finetune,
}


def run_demo(folder: Path) -> int:
    """Runs the stages that are not finished; returns 0 if all checks pass, else 1."""
    console = Console(stderr=True, quiet=dist.is_quiet())
    began = time.monotonic()
    prepare_world(folder / "world")
    for name, recipe in STAGES.items():
        run = folder / name
        if finished(run):
            console.print(f"[bold]{name}[/]  finished before")
            continue
        started = time.monotonic()
        console.print(
            f"[bold]{name}[/]  {(recipe.__doc__ or '').splitlines()[0]}"
        )
        config = recipe(str(folder))
        try:
            config.build(folder=run, resume=run.exists()).fit()
        except Interrupted as error:
            raise Interrupted(
                f"{name}: {str(error).partition(';')[0]}; go on with"
                f" `mm1 demo --out {shlex.quote(str(folder))}`"
            ) from error
        console.print(f"[bold]{name}[/]  {time.monotonic() - started:.0f} s")
    _evaluate_without_tiles(folder)
    for name in ("decoder", "pretrain", "finetune"):
        path = folder / name / layout.PACKING
        if not path.exists():
            write_json(path, packing_layout(read_config(folder / name)))
    checks = check_demo(folder)
    write_json(folder / "checks.json", checks)
    write_report(folder, folder / layout.REPORT)
    _print(folder, checks)
    console.print(
        f"{time.monotonic() - began:.0f} s in all; the report:"
        f" [bold]{folder / layout.REPORT}[/]\n"
        f"to talk to it: [bold]mm1 chat {folder / 'finetune'}[/]"
    )
    dist.stop()
    return 0 if all(c["passed"] for c in checks) else 1


def _evaluate_without_tiles(folder: Path) -> None:
    """The control: the same fine-tuned weights see only the overview of each image."""
    out = folder / "finetune-without-tiles"
    if (out / layout.SCORES).exists():
        return
    out.mkdir(exist_ok=True)
    config = read_config(folder / "finetune")
    config.loader.max_tiles = 1
    evaluate_run(
        folder / "finetune", config, names=[miniature.SMALL], shots=[0], out=out
    )


def _print(folder: Path, checks: list[dict[str, Any]]) -> None:
    """Prints scores and checks on standard output."""
    stages = {
        "before": RunFolder(folder / "pretrain"),
        "after": RunFolder(folder / "finetune"),
    }
    head, rows = score_table(stages)
    table = Table(
        title="Exact match at 0 ... 8 shots, before and after fine-tuning",
        caption=" ".join(
            [f"0 shots{each}." for each in zero_shot_prompts(stages.values())]
            + [MEANING]
        ),
    )
    for name in head:
        table.add_column(name.replace(" ", "\n"))
    for row in rows:
        table.add_row(*row)
    console = Console(width=110)
    console.print(table)
    for c in checks:
        console.print(
            f"{'[green]yes[/]' if c['passed'] else '[red]NO[/] '}  {c['name']}:"
            f" {c['detail']}"
        )
