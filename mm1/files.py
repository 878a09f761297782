"""JSON files: errors of reading name the file and the remedy; what is written is never
met half."""

import json
from pathlib import Path
from typing import Any

from mm1.config import ConfigError

ANEW = "get it anew"
"""What remains to be done where others wrote a file."""


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a file. `remedy` ends the error: what to do where the file is
    damaged.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigError: it is not JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}): {remedy}") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{path} holds a {type(found).__name__}, not an object: {remedy}"
        )
    return found


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Written aside and renamed, so that a reader never meets half a file."""
    aside = path.with_suffix(".unfinished")
    aside.write_text(content, encoding="utf-8")
    aside.rename(path)
