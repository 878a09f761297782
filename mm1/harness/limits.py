"""What both harnesses need: the limits of answers, and sharing work among ranks."""

import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from mm1 import dist
from mm1.config import ConfigError
from mm1.data.document import Document
from mm1.infer.ranks import gather_from_ranks, split_over_ranks
from mm1.loader.packed import PackedLoader

LENGTH_NAMES = (
    "max_gen_toks",
    "max_new_tokens",
    "max_tokens",
    "max_completion_tokens",
)
"""What tasks call the length of an answer; the first one present counts."""
DEFAULT_LENGTH = 256
"""For tasks that set no length, as in lm-eval's own models."""

Limits = tuple[int, tuple[str, ...]]
"""Most tokens of an answer, and its stop strings."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def sequence_length(run: str | Path, config: Any) -> int:
    """The sequence length that a run was trained with.

    Raises:
        ConfigError: it was not trained on packed sequences.
    """
    if not isinstance(config.loader, PackedLoader.Config):
        raise ConfigError(
            f"{run} was not trained on packed sequences: it is not a language model"
        )
    return config.loader.sequence_length


def generation_limits(options: Mapping[str, Any]) -> Limits:
    """The limits in a task's `generation_kwargs`.

    Raises:
        ConfigError: the task asks for sampling; decoding here is greedy.
    """
    if options.get("do_sample", float(options.get("temperature") or 0.0) > 0):
        raise ConfigError(
            f"decoding is greedy, but the task asks for sampling: {dict(options)}; set"
            " do_sample=False"
        )
    until = options.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    lengths = [
        options[name] for name in LENGTH_NAMES if options.get(name) is not None
    ]
    max_tokens = int(lengths[0]) if lengths else DEFAULT_LENGTH
    return max_tokens, tuple(mark for mark in stop if mark)


def answer_within_limits(
    documents: Sequence[Document],
    limits: Sequence[Limits],
    answer: Callable[[Sequence[Document], Limits], list[str]],
) -> list[str]:
    """The answer to each document within its limits; `answer` is called once for each
    distinct pair of limits."""
    groups = defaultdict(list)
    answers = [""] * len(documents)
    for number, own in enumerate(limits):
        groups[own].append(number)
    for own, members in groups.items():
        texts = answer([documents[number] for number in members], own)
        for number, text in zip(members, texts, strict=True):
            answers[number] = text
    return answers


def map_over_ranks(
    items: Sequence[Item],
    compute: Callable[[Sequence[Item]], list[Result]],
    what: str,
) -> list[Result]:
    """Every rank passes all items, computes its share and returns all results; `what`
    labels the progress bar."""
    quiet = dist.rank() != 0 or not sys.stderr.isatty()
    parts = track(
        split_over_ranks(items),
        what,
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
    return gather_from_ranks(
        [result for part in parts for result in compute(part)]
    )
