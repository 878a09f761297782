"""A run folder as reports read it: what is missing is empty, never an error."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mm1.files import read_jsonl
from mm1.runs import layout


def read_json_if_any(path: Path) -> Any:
    """None if the file is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class RunFolder:
    """The files of one run, read on first use."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> dict[str, Any]:
        return read_json_if_any(self.path / layout.CONFIG) or {}

    @cached_property
    def summary(self) -> dict[str, Any]:
        return read_json_if_any(self.path / layout.SUMMARY) or {}

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Benchmark -> its metric, chance and scores by number of shots."""
        return read_json_if_any(self.path / layout.SCORES) or {}

    @cached_property
    def packing(self) -> dict[str, Any]:
        """Rows of the loader as documents with where they start and stop."""
        return read_json_if_any(self.path / layout.PACKING) or {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / layout.METRICS)

    @cached_property
    def speed(self) -> list[dict[str, Any]]:
        return read_jsonl(self.path / layout.SPEED)

    def curve(self, key: str) -> list[tuple[float, float]]:
        """(step, value) of every line that has a finite value of `key`."""
        lines = [line for line in self.metrics if _has(line, "step", key)]
        return [(float(line["step"]), float(line[key])) for line in lines]

    def sources(self, kind: str = "loss") -> list[str]:
        """Sources that `loss/SOURCE` (or `tokens/SOURCE`) is logged for."""
        keys = {
            key
            for line in self.metrics
            for key in line
            if key.startswith(f"{kind}/")
        }
        return sorted(key.removeprefix(f"{kind}/") for key in keys)

    @property
    def seconds(self) -> float:
        """Training time."""
        return math.fsum(
            line["seconds"] for line in self.speed if _has(line, "seconds")
        )

    def worked(self, rate: str) -> float:
        """The whole run's work: a rate (`tokens_per_second`) integrated over time."""
        return math.fsum(
            line["seconds"] * line[rate]
            for line in self.speed
            if _has(line, "seconds", rate)
        )

    def setting(self, *keys: str) -> Any:
        """A nested value of the config, None if a key is missing."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def shots(self, benchmark: str) -> dict[int, dict[str, Any]]:
        """Number of shots -> score, stderr, num_questions; in order."""
        shots = (self.scores.get(benchmark) or {}).get("shots") or {}
        return {
            int(k): shots[k]
            for k in sorted(shots, key=int)
            if _has(shots[k], "score")
        }

    def zero_shot_prompt(self, benchmark: str) -> str:
        """What 0 shots mean, such as " (no demonstrations)"; nothing where the scores
        do not say."""
        meaning = self.shots(benchmark).get(0, {}).get("zero_shot_prompt")
        return f" ({meaning})" if meaning else ""

    def predictions(
        self, benchmark: str, shots: int, draw: int = 0
    ) -> list[dict[str, Any]]:
        return read_jsonl(
            layout.predictions_path(self.path, benchmark, shots, draw)
        )

    def picture(self, relative: str) -> bytes | None:
        """An image that a prediction names; None if it is missing or outside the
        folder."""
        path = (self.path / relative).resolve()
        if not path.is_relative_to(self.path.resolve()) or not path.is_file():
            return None
        return path.read_bytes()


def _has(line: dict[str, Any], *keys: str) -> bool:
    """Are there finite numbers under all of these keys?"""
    return all(is_finite(line.get(key)) for key in keys)


def is_finite(value: Any, *, or_none: bool = False) -> bool:
    """Is it a finite number?"""
    if value is None:
        return or_none
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    )


def finite_numbers(value: Any) -> dict[str, float]:
    """The finite numbers of a JSON object, by key; empty for anything else."""
    if not isinstance(value, dict):
        return {}
    return {
        key: float(number) for key, number in value.items() if is_finite(number)
    }
