"""Every fault of `cases`, met the way a user would meet it; its outcome is a row of
docs/faults.md, word for word.

`python -m pytest tests/faults/test_faults.py -n 0 --update-golden` rewrites the page.
"""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

import cases
import pytest
from cases import Case

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
AREAS = {
    module.name.replace("_", " "): importlib.import_module(
        f"cases.{module.name}"
    )
    for module in sorted(
        pkgutil.iter_modules(cases.__path__), key=lambda module: module.name
    )
}
ALL: dict[tuple[str, str], Case] = {
    (area, name): c
    for area, file in AREAS.items()
    for name, c in file.CASES.items()
}

HEAD = """# Faults and their outcomes

Each row is a test: a fault is created and met the way a user would meet it, and its
outcome is compared with this page, which the tests write
(`python -m pytest tests/faults/test_faults.py -n 0 --update-golden`). An unusable
record is dropped on its own, counted, and listed with file, key and reason in
`drops.jsonl`; what the user has to fix is an error of one line. Nothing hangs, and
nothing is lost without being counted.
"""


@pytest.mark.parametrize(
    ("area", "name"), ALL.keys(), ids=[f"{area}: {name}" for area, name in ALL]
)
def test_fault(
    area: str,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    outcome = ALL[area, name](tmp_path, monkeypatch)
    if request.config.getoption("--update-golden"):
        outcomes()[area, name] = outcome
        write()
    assert outcome == written()[area, name]


def test_the_page_has_the_cases_and_no_others() -> None:
    assert written().keys() == ALL.keys()
    assert len(ALL) >= 80


@cache
def outcomes() -> dict[tuple[str, str], str]:
    return written() if PAGE.is_file() else {}


def written() -> dict[tuple[str, str], str]:
    """(area, name) -> outcome, as on the page."""
    rows = {}
    area = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        area = (
            line.removeprefix("## ").lower() if line.startswith("## ") else area
        )
        if line.startswith("| ") and not line.startswith(("| Fault", "| ---")):
            name, outcome = (
                line.removeprefix("| ").removesuffix(" |").split(" | ")
            )
            rows[area, name] = outcome.replace("&#124;", "|").replace(
                "&lt;", "<"
            )
    return rows


def write() -> None:
    page = HEAD
    for area, file in AREAS.items():
        page += (
            f"\n## {area.capitalize()}\n\n{(file.__doc__ or '').strip()}\n\n"
        )
        page += "| Fault | Outcome |\n| --- | --- |\n"
        for name in file.CASES:
            outcome = outcomes().get((area, name), "")
            outcome = outcome.replace("|", "&#124;").replace("<", "&lt;")
            page += f"| {name} | {outcome} |\n"
    PAGE.write_text(page, encoding="utf-8")
