"""What the harnesses have in common: a task's options for answers, and work that is
shared among ranks."""

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

LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the length of an answer; the first that is there counts."""
DEFAULT_LENGTH = 256
"""Of an answer to a task that says none, as in lm-eval's own models."""

Limits = tuple[int, tuple[str, ...]]
"""Most tokens of an answer, and the strings that end it."""
Item = TypeVar("Item")
Found = TypeVar("Found")


def sequence_length(run: str | Path, config: Any) -> int:
    """Tokens of the rows that a run was trained with; raises ConfigError where it had
    none."""
    if not isinstance(config.loader, PackedLoader.Config):
        raise ConfigError(
            f"{run} was not trained on rows of tokens: it is no language model"
        )
    return config.loader.sequence_length


def limits(options: Mapping[str, Any]) -> Limits:
    """Those of a task's `generation_kwargs`.

    Raises:
        ConfigError: they ask for sampling; our answers are the most likely ones.
    """
    if options.get("do_sample", float(options.get("temperature") or 0.0) > 0):
        raise ConfigError(
            f"answers are greedy, the task asks for sampling: {dict(options)}; set"
            " do_sample=False"
        )
    until = options.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    lengths = [options[name] for name in LENGTH_NAMES if options.get(name) is not None]
    return int(lengths[0] if lengths else DEFAULT_LENGTH), tuple(
        mark for mark in stop if mark
    )


def answers(
    documents: Sequence[Document],
    wanted: Sequence[Limits],
    answer: Callable[[Sequence[Document], Limits], list[str]],
) -> list[str]:
    """The answer to each document within its limits; `answer` is asked once for all
    that have the same."""
    alike = defaultdict(list)
    found = [""] * len(documents)
    for number, each in enumerate(wanted):
        alike[each].append(number)
    for each, members in alike.items():
        for number, text in zip(
            members, answer([documents[n] for n in members], each), strict=True
        ):
            found[number] = text
    return found


def over_ranks(
    items: Sequence[Item], answer: Callable[[Sequence[Item]], list[Found]], what: str
) -> list[Found]:
    """Every rank brings all items, answers its share and is given all answers."""
    quiet = dist.rank() != 0 or not sys.stderr.isatty()
    parts = track(
        split_over_ranks(items),
        what,
        console=Console(stderr=True),
        transient=True,
        disable=quiet,
    )
    return gather_from_ranks([found for part in parts for found in answer(part)])
