"""Real data of every kind: prepare, train, interrupt, resume on more processes, and
check the counts.

    python benchmarks/real_data.py DATA --out runs/real [--steps 500]

DATA holds captions/*.tar, interleaved/*.parquet, interleaved/mmc4_layout.jsonl beside
mmc4_images/, text/*.jsonl and instructions/*.json(l). Every step is a command that a
user would give. The run is interrupted by Ctrl-C (SIGINT) at a third and at two thirds,
and resumes with two processes, then with three. Then the counts are checked:

    prepare   records read = documents + drops, for each folder
    train     documents, tokens of each source and images logged by the three runs =
              those planned from step 0 to the end in one go; no document was seen more
              often than epochs of its source were begun
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from mm1.data.prepared.shards import read_manifest
from mm1.loader.packed import PackedLoader
from mm1.runs.description import read_config
from mm1.runs.weights import load_model

KINDS = {  # name: (kind, paths, options)
    "captions": ("captions", ["captions"], []),
    "pages": ("interleaved", ["interleaved"], ["filters=web_pages"]),
    "mmc4": (
        "mmc4",
        ["interleaved/mmc4_layout.jsonl"],
        ["source.folder={data}/interleaved/mmc4_images"],
    ),
    "text": ("text", ["text"], ["filters=web_text"]),
    "instructions": ("instructions", ["instructions"], []),
}
WEIGHTS = {
    "captions": 0.4,
    "pages": 0.35,
    "mmc4": 0.05,
    "text": 0.1,
    "instructions": 0.1,
}
SMALL = [
    *(
        "model.encoder.image_size=48",
        "model.encoder.depth=2",
        "model.encoder.dim=96",
    ),
    *("model.connector.num_tokens=4", "model.connector.dim=64"),
    *("model.decoder.depth=2", "model.decoder.dim=128"),
    *(
        "loader.batch_size=6",
        "loader.micro_batch_size=1",
        "loader.sequence_length=512",
        "loader.max_images=16",
        "loader.workers=1",
    ),
    *("validate_every=0", "checkpoint_every=1000"),
]
PROCESSES = (1, 2, 3)


def mm1(*words: str | Path) -> None:
    print("$ mm1", *words, flush=True)
    subprocess.run(
        [sys.executable, "-m", "mm1.cli", *map(str, words)], check=True
    )


def prepare(data: Path, out: Path) -> None:
    if not (out / "tokenizer.json").exists():
        mm1(
            "tokenizer",
            data / "text",
            "--out",
            out / "tokenizer.json",
            "--vocab-size",
            "4096",
        )
    for name, (kind, paths, options) in KINDS.items():
        words = [option.format(data=data) for option in options]
        inputs = [data / path for path in paths]
        where = [
            "--out",
            out / name,
            "--tokenizer",
            out / "tokenizer.json",
            "--validation",
            "0.02",
        ]
        mm1("prepare", kind, *inputs, *where, "--workers", "2", *words)


def train(
    out: Path, processes: int, stop_at: int | None, recipe: list[str]
) -> int:
    """Run `mm1 train`, with Ctrl-C after `stop_at` steps; return the last step."""
    run = out / "run"
    resume = [] if processes == 1 else ["--resume"]
    launcher = (
        [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
        ]
        if processes > 1
        else []
    )
    command = [
        sys.executable,
        *launcher,
        "-m",
        "mm1.cli",
        "train",
        *recipe,
        "--out",
        str(run),
        *resume,
    ]
    print("$", " ".join(command[1:]), flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while process.poll() is None:
        time.sleep(0.2)
        if stop_at and last_step(run) >= stop_at:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=120)
    if stop_at is None and process.returncode:
        raise SystemExit(f"training ended with {process.returncode}")
    return last_step(run)


def last_step(run: Path) -> int:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def check_counts(out: Path, steps: int) -> None:
    for name in KINDS:
        manifest = read_manifest(out / name)
        documents = manifest["documents"]
        drops = manifest["drops"]
        print(
            f"{name}: {manifest['records_in']:,} records = {documents:,} documents +"
            f" {sum(drops.values()):,} {drops}"
        )
        assert manifest["records_in"] == documents + sum(drops.values())
    config = read_config(out / "run")
    _, renderer, _ = load_model(out / "run", torch.device("cpu"))
    loader = config.loader.build(renderer=renderer, seed=config.seed)
    assert isinstance(loader, PackedLoader)
    logged: Counter[str] = Counter()
    for line in map(
        json.loads, (out / "run" / "metrics.jsonl").read_text().splitlines()
    ):
        logged.update(
            {
                k: v
                for k, v in line.items()
                if k in ("documents", "continued_documents", "images")
                or k.startswith("tokens")
            }
        )
    planned: Counter[str] = Counter()
    covered: Counter[tuple[int, int]] = Counter()
    windows = loader.plan_steps(None)
    for _ in range(steps):
        rows, after, _ = next(windows)
        for excerpt in (e for row in rows for e in row):
            planned[
                "documents" if excerpt.start == 0 else "continued_documents"
            ] += 1
            planned["images"] += excerpt.images
            planned[f"tokens/{loader.names[excerpt.source]}"] += (
                excerpt.stop - excerpt.start
            )
            covered[excerpt.source, excerpt.document] += (
                excerpt.stop - excerpt.start
            )
    planned["tokens"] = (
        steps * config.loader.batch_size * config.loader.sequence_length
    )
    assert logged == planned, (logged, planned)
    print(
        f"logged by {PROCESSES} processes = planned in one go: {dict(logged)}"
    )
    for s, (name, source) in enumerate(loader.sources.items()):
        epochs = {
            d: n / int(source.lengths(np.array([d]))[0][0])
            for (which, d), n in covered.items()
            if which == s
        }
        most = after.drawn[name] // source.num_documents + 1
        assert max(epochs.values()) <= most, name
        print(
            f"{name}: {after.drawn[name] / source.num_documents:.2f} epochs drawn,"
            f" {len(epochs):,} documents seen, none more than"
            f" {max(epochs.values()):.2f} times; {after.skipped[name]} skipped"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/real"))
    parser.add_argument("--steps", type=int, default=500)
    arguments = parser.parse_args()
    out = arguments.out
    steps = arguments.steps
    prepare(arguments.data, out)
    sources = {name: str(out / name) for name in KINDS}
    recipe = [
        "pretrain_small",
        *SMALL,
        f"steps={steps}",
        f"loader.sources={sources}",
        f"loader.weights={WEIGHTS}",
    ]
    recipe.append(f"tokenizer.path={out / 'tokenizer.json'}")
    for processes, stop_at in zip(
        PROCESSES, (steps // 3, 2 * steps // 3, None), strict=True
    ):
        print(
            f"{processes} processes: stopped at step"
            f" {train(out, processes, stop_at, recipe)} of {steps}",
            flush=True,
        )
    mm1("view", out / "run", "--out", out / "rows.html")
    check_counts(out, steps)


if __name__ == "__main__":
    main()
