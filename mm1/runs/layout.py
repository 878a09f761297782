"""Names of the files in a run folder, the one thing that is passed between stages.

config.json          every setting
tokenizer.json       with special_tokens.json where its tokens have other names
metrics.jsonl        what was learnt, a line every `log_every` steps
speed.jsonl          what it cost
checkpoints/         step-00001000/ ...
model.safetensors    the weights, once the run has finished; beyond 5 GB in shards:
                     model-00001-of-00003.safetensors ..., with an index
                     (`mm1.weight_files`)
predictions/         NAME-4shot.jsonl: every question with its prompt and answer
scores.json          of the benchmarks
checksums.json       of config, tokenizer and weights (`mm1.checksums`)
summary.json         sizes, data, hardware; has the run finished?
packing.json         the first packed sequences, for reports
report.html
trackers.json        the run's ids in trackers (`mm1.runs.trackers`)
writer.lock          who writes here, while they do (`mm1.folder_lock`)
"""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from mm1.checksums import CHECKSUMS
from mm1.config import TRUSTED, ConfigError
from mm1.files import file_name
from mm1.storage.remote_path import RemotePath

CONFIG = "config.json"
METRICS = "metrics.jsonl"
SPEED = "speed.jsonl"
CHECKPOINTS = "checkpoints"
PREDICTIONS = "predictions"
SCORES = "scores.json"
SUMMARY = "summary.json"
PACKING = "packing.json"
REPORT = "report.html"


def predictions_path(
    run: Path, benchmark: str, num_shots: int, draw: int = 0
) -> Path:
    """`draw` counts from 0.

    Raises:
        ConfigError: the benchmark's name cannot be that of a file.
    """
    suffix = f"-draw{draw + 1}" if draw else ""
    file_name(benchmark, "benchmark")
    return run / PREDICTIONS / f"{benchmark}-{num_shots}shot{suffix}.jsonl"


def distinct_names(runs: Sequence[Path]) -> list[str]:
    """The names of run folders, or their paths where some have the same name.

    Raises:
        ConfigError: a run is given twice.
    """
    names = [run.resolve().name for run in runs]
    if len(set(names)) == len(names):
        return names
    paths = [str(run) for run in runs]
    for run in runs:
        if [each.resolve() for each in runs].count(run.resolve()) > 1:
            raise ConfigError(f"{run} is given twice")
    return paths


def resume_command(run: Path) -> str:
    """What a shell takes to go on with a run, as it was started here: its own config is
    in its folder."""
    ranks = os.environ.get("WORLD_SIZE", "1")
    is_one_node = os.environ.get("LOCAL_WORLD_SIZE", "1") == ranks
    start = "mm1"
    if ranks != "1":
        options = f"--nproc-per-node {ranks}" if is_one_node else "..."
        start = f"torchrun {options} -m mm1.cli"
    folder = shlex.quote(str(run))
    trusted = "".join(f" --trust {module}" for module in TRUSTED[1:])
    return f"{start} train {folder} --out {folder}{trusted} --resume"


def checkpoint_path(run: Path, step: int) -> Path:
    return run / CHECKPOINTS / f"step-{step:08d}"


def checkpoint_steps(run: Path) -> list[int]:
    """Steps with a whole checkpoint, in order. One still being written has a suffix, or
    at an object store, where nothing can be renamed, no checksums yet."""
    folder = run / CHECKPOINTS
    if isinstance(run, RemotePath):
        names = [path.parent.name for path in folder.rglob(CHECKSUMS)]
    else:
        names = [path.name for path in folder.glob("step-*")]
    return sorted(
        int(number)
        for name in names
        if (number := name.removeprefix("step-")).isdecimal()
    )
