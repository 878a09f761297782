"""Every fault of `cases`, met as a user would meet it. What came of it is a row of
docs/faults.md, word by word.

`python -m pytest tests/faults/test_faults.py -n 0 --update-golden` writes the page
anew.
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
    module.name: importlib.import_module(f"cases.{module.name}")
    for module in sorted(
        pkgutil.iter_modules(cases.__path__), key=lambda module: module.name
    )
}
ALL: dict[tuple[str, str], Case] = {
    (area, name): c for area, file in AREAS.items() for name, c in file.CASES.items()
}

HEAD = """# What goes wrong, and what comes of it

Each line is a test: something bad is made, met as a user would meet it, and what came of it is compared with this page,
which the tests write (`python -m pytest tests/faults/test_faults.py -n 0 --update-golden`). A record that cannot be
used is dropped alone, counted and listed with its file, key and reason in `drops.jsonl`; what a user has to mend is an
error of one line. Nothing hangs, nothing is lost without a count.
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
        found()[area, name] = outcome
        write()
    assert outcome == written()[area, name]


def test_the_page_has_the_cases_and_no_others() -> None:
    assert written().keys() == ALL.keys()
    assert len(ALL) >= 60


@cache
def found() -> dict[tuple[str, str], str]:
    return written() if PAGE.is_file() else {}


def written() -> dict[tuple[str, str], str]:
    """Case -> outcome, as the page has them."""
    rows = {}
    area = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        area = line.removeprefix("## ").lower() if line.startswith("## ") else area
        if line.startswith("| ") and not line.startswith(("| Fault", "| ---")):
            name, outcome = line.removeprefix("| ").removesuffix(" |").split(" | ")
            rows[area, name] = outcome.replace("&#124;", "|").replace("&lt;", "<")
    return rows


def write() -> None:
    page = HEAD
    for area, file in AREAS.items():
        page += f"\n## {area.capitalize()}\n\n{(file.__doc__ or '').strip()}\n\n"
        page += "| Fault | What comes of it |\n| --- | --- |\n"
        outcomes = {name: found().get((area, name), "") for name in file.CASES}
        for name, outcome in outcomes.items():
            page += (
                f"| {name} | {outcome.replace('|', '&#124;').replace('<', '&lt;')} |\n"
            )
    PAGE.write_text(page, encoding="utf-8")
