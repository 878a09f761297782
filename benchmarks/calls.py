"""How many files and functions of mm1 one call runs through: a measure of how far a
reader must jump.

    mm1 demo
    python benchmarks/calls.py [--demo runs/demo]

It counts the distinct functions (and the files they stand in) that are entered while
one training step runs, while captions are prepared and while a benchmark is asked, all
in one process, on what the demo left behind. Comprehensions, lambdas and module bodies
are not counted.
"""

import argparse
import contextlib
import importlib
import inspect
import io
import pkgutil
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mm1
from mm1 import cli

ROOT = str(Path(mm1.__file__).parent)


class Calls:
    """Functions of mm1 entered while it listens; `step` names the one that starts a
    training step, of which the second is taken."""

    def __init__(self, step: str = "") -> None:
        self.step = step
        self.steps = 0
        self.seen: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOT):
            return
        if (
            self.step
            and code.co_name == self.step
            and "/train/" in code.co_filename
        ):
            self.steps += 1
        function = (
            code.co_flags & inspect.CO_OPTIMIZED and code.co_name[0] != "<"
        )
        if function and (not self.step or self.steps == 2):
            self.seen.add(code)

    def __str__(self) -> str:
        files = {code.co_filename for code in self.seen}
        return f"{len(files)} | {len(self.seen)}"


@contextlib.contextmanager
def listening(calls: Calls) -> Iterator[None]:
    threading.setprofile(calls)
    sys.setprofile(calls)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def command(calls: Calls, *words: str) -> Calls:
    """Runs `mm1 WORDS` in this process and counts what it enters."""
    sys.argv = ["mm1", *words]
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            with listening(calls):
                cli.main()
        except SystemExit as end:
            if end.code:
                raise RuntimeError(
                    f"mm1 {' '.join(words)}: {output.getvalue()}"
                ) from end
    return calls


def import_all() -> None:
    """What runs when a module is imported is no part of a call."""
    for module in pkgutil.walk_packages(mm1.__path__, "mm1."):
        if not module.name.startswith(
            ("mm1.harness.l", "mm1.export.remote.", "mm1.cli.__main__")
        ):
            importlib.import_module(module.name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Files and functions of one call."
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    demo = parser.parse_args().demo
    world = demo / "world"
    import_all()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        prepare = command(
            Calls(),
            "prepare",
            "captions",
            str(world / "raw" / "captions"),
            "--tokenizer",
            str(world / "tokenizer.json"),
            "--out",
            str(scratch / "captions"),
        )
        sources = [
            f"loader.sources.{name}={world / folder}"
            for name, folder in (
                ("interleaved", "pages"),
                ("captions", "captions"),
                ("text", "text"),
            )
        ]
        step = command(
            Calls(step="train_step"),
            "train",
            "miniature_pretrain",
            "steps=3",
            "loader.workers=0",
            *sources,
            f"init.encoder={demo / 'encoder'}",
            f"init.decoder={demo / 'decoder'}",
            "--out",
            str(scratch / "run"),
        )
        run = scratch / "pretrain"
        shutil.copytree(demo / "pretrain", run)
        shutil.rmtree(run / "predictions")
        (run / "scores.json").unlink()
        evaluate = command(
            Calls(), "eval", str(run), "--benchmarks", "digit", "--shots", "2"
        )
    print("| | files | functions |\n|---|---|---|")
    print(f"| one training step | {step} |")
    print(f"| `mm1 prepare captions` | {prepare} |")
    print(f"| `mm1 eval` of one benchmark | {evaluate} |")


if __name__ == "__main__":
    main()
