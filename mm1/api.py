"""The stages of a run from Python, as the command line has them: `mm1.prepare`,
`mm1.train` and `mm1.evaluate`.

Keyword arguments change keys of a config, with two underscores for a point:
`loader__batch_size=8` is `loader.batch_size=8` of the command line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mm1.catalog import finished_run_config, run_config
from mm1.config import ConfigError, to_text
from mm1.data.prepared.shards import NotPrepared
from mm1.dist import is_verbose, say
from mm1.eval.evaluate import evaluate_run
from mm1.infer.quantization import Quantization
from mm1.next_steps import unprepared, untrained
from mm1.prepare.pipeline import prepare
from mm1.recipes.filters import preparation_config
from mm1.runs.layout import checkpoint_steps
from mm1.storage.remote_path import as_path
from mm1.train.origins import MissingOrigin, say_config_differences
from mm1.train.trainer import Trainer


def prepare_raw_data(
    source: str,
    paths: Path | str | Sequence[Path | str],
    *,
    out: Path | str,
    tokenizer: Path | str,
    workers: int = 1,
    **changes: Any,
) -> dict[str, Any]:
    """`mm1.prepare`: raw files to the shards that training reads. The same call resumes
    one that was interrupted.

    Args:
        source: the raw format, one of `mm1 list sources`.
        paths: raw files, or folders of them.
        out: the folder to write.
        tokenizer: a tokenizer.json, or a folder that has one.
        workers: files read at a time, each in a process.
        changes: options of source, filters and split, such as `validation=0.02`,
            `source__field="recaption"` or `filters="web_pages"`.

    Returns:
        The folder's manifest: how many documents, tokens and images, and what was left
        out.

    Raises:
        ConfigError, FileNotFoundError: as `mm1.prepare.pipeline.prepare`.

    Examples:
        >>> manifest = mm1.prepare(
        ...     "captions", "raw", out="data/captions", tokenizer="tokenizer.json"
        ... )
        >>> manifest["documents"]
        20
    """
    several = [paths] if isinstance(paths, Path | str) else paths
    return prepare(
        preparation_config(source, _assignments(changes)),
        [as_path(path) for path in several],
        as_path(out),
        as_path(tokenizer),
        workers=workers,
    )


def train_recipe(
    recipe: str | Path | Trainer.Config,
    *,
    out: Path | str,
    resume: bool = False,
    **changes: Any,
) -> Path:
    """`mm1.train`: trains a recipe and returns its run folder.

    Args:
        recipe: its name (`mm1 list`), a run folder, a config.json or a config.
        out: the run folder to write.
        resume: continue from its newest checkpoint, if it has one.
        changes: keys to change, such as `steps=100`, `optimizer__peak_lr=1e-3` or
            `model__connector="average_pool"`.

    Raises:
        ConfigError: there is no such recipe or key, or data do not fit.

    Examples:
        >>> run = mm1.train("tiny.json", out="runs/tiny", steps=2)
        >>> mm1.load(run).layout
        'plain'
    """
    open_trainer(recipe, _assignments(changes), as_path(out), resume).fit()
    return as_path(out)


def evaluate_finished_run(
    run: Path | str,
    *,
    benchmarks: str | Sequence[str] | None = None,
    shots: int | Sequence[int] | None = None,
    controls: bool = False,
    out: Path | str | None = None,
    quantization: Quantization | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """`mm1.evaluate`: a finished run on its benchmarks, or on others.

    Args:
        run: the run folder.
        benchmarks: which of the config's, one or several; None: all.
        shots: one or several numbers of demonstrations in the prompt; None: the run's.
        controls: whether to add those of few-shot figures (`mm1.eval.controls`).
        out: folder for predictions and scores; None: the run folder.
        quantization: `int8` holds the weights of linear maps in 8 bits; needs an `out`.
        changes: keys to change, such as `benchmarks__coco="coco"`.

    Returns:
        The content of scores.json (`mm1.eval.evaluate`).

    Raises:
        ConfigError: there is no such benchmark or key, an argument is not what it
            should be, or quantisation needs an extra that is not installed.

    Examples:
        >>> scores = mm1.evaluate(
        ...     "runs/demo/finetune", benchmarks=["colour"], shots=[0, 2]
        ... )
        >>> list(scores["colour"]["shots"])
        ['0', '2']
    """
    return evaluate_run(
        as_path(run),
        finished_run_config(as_path(run), _assignments(changes)),
        names=_several("benchmarks", benchmarks, str),
        shots=_several("shots", shots, int),
        controls=controls,
        out=None if out is None else as_path(out),
        quantization=quantization,
    )


def _several(
    name: str, given: Any, kind: type[int] | type[str]
) -> list[Any] | None:
    """One or several as a list, None as it is.

    Raises:
        ConfigError: there are none, or they are of another kind.
    """
    if given is None:
        return None
    several = [given] if isinstance(given, kind) else given
    if (
        not isinstance(several, list | tuple)
        or not several
        or not all(isinstance(each, kind) for each in several)
    ):
        wanted = "number" if kind is int else "name"
        raise ConfigError(
            f"{name}={given!r}: give a {wanted}, or a list of some"
        )
    return list(several)


def open_trainer(
    recipe: str | Path | Trainer.Config,
    overrides: Sequence[str],
    out: Path,
    resume: bool,
) -> Trainer:
    """The trainer of a recipe with overrides. One that resumes has the config of its
    run folder; where the recipe says otherwise now, the differences are printed.

    Raises:
        ConfigError: there is no such recipe or key, or its data have not been prepared:
            the message has the commands that do.
    """
    if isinstance(recipe, Trainer.Config):
        if overrides:
            raise ConfigError(
                f"{overrides[0]}: change the config itself, or name a recipe"
            )
        return recipe.build(folder=out, resume=resume)
    resumes = resume and checkpoint_steps(out)
    try:
        config = run_config(str(out if resumes else recipe), overrides)
        if resumes:
            asked = run_config(str(recipe), overrides)
            say_config_differences(out, config, str(recipe), asked)
        trainer = _built(config, str(recipe), out, resume)
    except MissingOrigin as error:
        raise untrained(error) from error
    changes = f" with {' '.join(overrides)}" if overrides else ""
    say(f"  {'recipe':<11} {recipe}{changes}")
    if is_verbose():
        say(to_text(config))
    return trainer


def _built(
    config: Trainer.Config, recipe: str, out: Path, resume: bool
) -> Trainer:
    try:
        return config.build(folder=out, resume=resume)
    except NotPrepared as error:
        raise unprepared(error, recipe, config) from error


def _assignments(changes: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as the command line has them."""
    return [
        f"{name.replace('__', '.')}="
        + (plain if isinstance(plain := _plain(value), str) else repr(plain))
        for name, value in changes.items()
    ]


def _plain(value: Any) -> Any:
    """A value whose `repr` can be read again: no numbers of numpy, and no paths."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value
