"""Reads what `record_references.py` recorded."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from torch import Tensor

FOLDER = Path(__file__).parent / "references"


class Recorded(NamedTuple):
    state: dict[str, Tensor]
    """Weights under the names of the library that made them."""
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    facts: dict[str, Any]
    """`about`, `config`, `versions`, and for pictures `mean` and `std`."""


def recorded(name: str) -> Recorded:
    """The file `references/<name>.safetensors`."""
    groups: dict[str, dict[str, Tensor]] = {
        "state": {},
        "input": {},
        "output": {},
    }
    with safe_open(FOLDER / f"{name}.safetensors", framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (no dict: it cannot be iterated)
            group, _, rest = key.partition(".")
            groups[group][rest] = file.get_tensor(key)
        facts = json.loads(file.metadata()["facts"])
    return Recorded(groups["state"], groups["input"], groups["output"], facts)
