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
from mm1.eval.controls import is_control
from mm1.eval.evaluate import evaluate_run
from mm1.files import read_object, write_json
from mm1.miniature import recipes as miniature
from mm1.miniature.checks import check_demo
from mm1.miniature.control_table import HEAD, MEANING, control_rows
from mm1.miniature.report import write_report
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
    stages = {"before": folder / "pretrain", "after": folder / "finetune"}
    scores = {
        name: read_object(
            run / layout.SCORES, "delete it, to ask its questions again"
        )
        for name, run in stages.items()
    }
    shots = list(
        dict.fromkeys(
            k
            for stage in scores.values()
            for task in stage.values()
            for k in task["shots"]
        )
    )
    results = [
        known
        for stage in scores.values()
        for task in stage.values()
        for known in task["shots"].values()
    ]
    meanings = dict.fromkeys(
        known["zero_shot_prompt"]
        for known in results
        if "zero_shot_prompt" in known
    )
    table = Table(
        "task",
        "chance",
        title="Exact match at 0 ... 8 shots, before and after fine-tuning",
    )
    table.caption = f"0 shots: {'; '.join(meanings)}" if meanings else None
    for name in [f"{k} {stage}" for stage in stages for k in shots]:
        table.add_column(name, no_wrap=True)
    for task, known in scores["before"].items():
        if is_control(task, tuple(scores["before"])):
            continue
        cells = [
            (
                f"{stage[task]['shots'][k]['score']:.2f}"
                if k in stage[task]["shots"]
                else ""
            )
            for stage in scores.values()
            for k in shots
        ]
        table.add_row(
            task,
            "" if known["chance"] is None else f"{known['chance']:.2f}",
            *cells,
        )
    console = Console(width=110)
    console.print(table)
    controls = Table(*HEAD, title="What the shots add", caption=MEANING)
    for row in control_rows({k: RunFolder(run) for k, run in stages.items()}):
        controls.add_row(*row)
    console.print(controls)
    for c in checks:
        console.print(
            f"{'[green]yes[/]' if c['passed'] else '[red]NO[/] '}  {c['name']}:"
            f" {c['detail']}"
        )
