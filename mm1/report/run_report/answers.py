"""Every question of the runs' predictions with its prompt, and what each run answered:
one file for each benchmark, number of shots and draw, which the page loads when it is
chosen. It is a script, as pages opened from a disk may not load anything else."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mm1.report.page import data_url, plural
from mm1.runs.results import RunFolder, finite_numbers

ANSWERS = "answers"
"""Folder of the files, beside the page."""
LONGEST_SIDE = 240
"""Of a picture in a prompt, in pixels."""
READERS = 8
"""Threads that read pictures, for runs at an object store."""


@dataclass(frozen=True, slots=True)
class AnswerSet:
    """The questions of a benchmark at a number of shots, in one draw of them."""

    benchmark: str
    shots: int
    draw: int

    @property
    def label(self) -> str:
        draw = f", draw {self.draw + 1}" if self.draw else ""
        return f"{self.benchmark}, {plural(self.shots, 'shot')}{draw}"


@dataclass
class _Question:
    id: str
    truth: list[str]
    prompts: list[dict[str, Any]] = field(default_factory=list)
    given: list[dict[str, Any] | None] = field(default_factory=list)


def write_answers(
    runs: Mapping[str, RunFolder], folder: Path
) -> list[dict[str, Any]]:
    """Writes the files into a folder of their own in `folder`, and returns what the
    page needs to know of each: its `label` and its `file`."""
    listed = []
    for number, each in enumerate(_sets(runs), 1):
        lines = [
            run.predictions(each.benchmark, each.shots, each.draw)
            for run in runs.values()
        ]
        if not any(lines):
            continue
        (folder / ANSWERS).mkdir(exist_ok=True)
        file = f"{ANSWERS}/{number}.js"
        content = json.dumps(
            _content(list(runs.values()), lines), ensure_ascii=False
        )
        # A lone surrogate may have come with a record; UTF-8 has none.
        (folder / file).write_text(
            f"mm1Answers({file!r}, {content});\n",
            encoding="utf-8",
            errors="replace",
        )
        listed.append({"label": each.label, "file": file})
    return listed


def _sets(runs: Mapping[str, RunFolder]) -> list[AnswerSet]:
    """What the scores speak of, in their order."""
    names = dict.fromkeys(name for run in runs.values() for name in run.scores)
    found = []
    for name in names:
        draws: Counter[int] = Counter()
        for run in runs.values():
            for shots, result in run.shots(name).items():
                known = result.get("draws")
                number = len(known) if isinstance(known, list) else 1
                draws[shots] = max(draws[shots], number)
        found += [
            AnswerSet(name, shots, draw)
            for shots in sorted(draws)
            for draw in range(draws[shots])
        ]
    return found


def _content(
    runs: Sequence[RunFolder], lines: Sequence[Sequence[dict[str, Any]]]
) -> dict[str, Any]:
    """`questions`, the `images` that their prompts name by number, and how many lines
    were no answers."""
    questions: dict[tuple[str, int], _Question] = {}
    images = _Images()
    left_out = 0
    for i, (run, own) in enumerate(zip(runs, lines, strict=True)):
        seen: Counter[str] = Counter()
        for number, line in enumerate(own, 1):
            score = finite_numbers(line).get("score")
            if score is None or "prediction" not in line:
                left_out += 1
                continue
            name = str(line.get("id", f"line {number}"))
            key = (name, seen[name])
            seen[name] += 1
            question = questions.setdefault(
                key, _Question(name, _truth(line), given=[None] * len(runs))
            )
            question.given[i] = {
                "prompt": _prompt(question, line, run, images),
                "prediction": str(line["prediction"]),
                "score": score,
            }
    return {
        "questions": [vars(each) for each in questions.values()],
        "images": images.urls(),
        "left_out": left_out,
    }


def _truth(line: Mapping[str, Any]) -> list[str]:
    truth = line.get("answers")
    return list(map(str, truth)) if isinstance(truth, list) else []


def _prompt(
    question: _Question,
    line: Mapping[str, Any],
    run: RunFolder,
    images: "_Images",
) -> int:
    """The number of the line's prompt among those of the question: runs that have the
    same layout share it."""
    text = str(line.get("prompt", ""))
    for number, known in enumerate(question.prompts):
        if known["text"] == text:
            return number
    named = line.get("pictures")
    pictures = [
        images.add(run, str(name))
        for name in (named if isinstance(named, list) else ())
    ]
    question.prompts.append({"text": text, "pictures": pictures})
    return len(question.prompts) - 1


class _Images:
    """Pictures of prompts, each file once."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, str], int] = {}
        self.files: list[tuple[RunFolder, str]] = []

    def add(self, run: RunFolder, name: str) -> int:
        key = (id(run), name)
        if key not in self.numbers:
            self.numbers[key] = len(self.files)
            self.files.append((run, name))
        return self.numbers[key]

    def urls(self) -> list[str | None]:
        """None for what cannot be read."""
        return list(_read(self.files))


def _read(files: Sequence[tuple[RunFolder, str]]) -> Iterator[str | None]:
    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(
            lambda file: data_url(file[0].picture(file[1]), LONGEST_SIDE), files
        )
