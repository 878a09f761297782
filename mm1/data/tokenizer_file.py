"""Opens a `tokenizer.json` that may come from a stranger: its regular expressions are
checked, and the library's ways of giving up become errors of one line."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenizers import Tokenizer as Backend

from mm1.config import ConfigError, UserError


def open_backend(text: str, origin: str) -> Backend:
    """The tokenizer in the content of a `tokenizer.json`, which may be a stranger's.

    Raises:
        ConfigError: it is none, or has a regular expression whose time may grow
            exponentially with a text.
    """
    try:
        with refusing_panics(origin):
            backend = Backend.from_str(text)
        patterns = list(_regular_expressions(json.loads(text)))
    except UserError:
        raise
    # The library raises bare Exceptions.
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{origin} is no tokenizer that can be read ({said[:200]}): get a fresh"
            " copy"
        ) from error
    for pattern in patterns:
        if is_explosive(pattern):
            raise ConfigError(
                f"{origin} has the regular expression {pattern[:80]!r}, which repeats a"
                " group that repeats or has alternatives itself: its time may grow"
                " exponentially; write it without, or get another tokenizer"
            )
    return backend


@contextmanager
def refusing_panics(origin: str) -> Iterator[None]:
    """Makes a ConfigError of what ends the library from within.

    Its regular expressions stop after ten million steps, with a panic, which is no
    `Exception`.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ConfigError(
            f"{origin}: the tokenizer gave up on a text"
            f" ({str(error).splitlines()[0][:200]}): get another tokenizer"
        ) from error


def is_explosive(pattern: str) -> bool:
    """Does a regular expression repeat, without a limit, a group that itself repeats
    without one, or has alternatives?

    Such are the ones whose matching may take exponential time, and no published
    tokenizer needs them.
    """
    tokens = re.findall(
        r"\\.|\[(?:\\.|\[[^]]*\]|[^]\\])*\]|\{\d*,?\d*\}|.", pattern, re.DOTALL
    )
    repeats = [False]
    """Of the groups around a place: does one repeat or have alternatives so far?"""
    closed = False
    for token in tokens:
        unlimited = token in "*+" or bool(re.fullmatch(r"\{\d*,\}", token))
        if unlimited and closed:
            return True
        closed = False
        if token == "(":
            repeats.append(False)
        elif token == ")" and len(repeats) > 1:
            closed = repeats.pop()
            repeats[-1] = repeats[-1] or closed
        elif token == "|" or unlimited:
            repeats[-1] = True
    return False


def _regular_expressions(parsed: Any) -> Iterator[str]:
    """All of them in a parsed `tokenizer.json`."""
    if isinstance(parsed, dict):
        if isinstance(pattern := parsed.get("Regex"), str):
            yield pattern
        parsed = [value for key, value in parsed.items() if key != "model"]
    if isinstance(parsed, list):
        for each in parsed:
            yield from _regular_expressions(each)
