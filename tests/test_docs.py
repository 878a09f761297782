"""The pages of the repository: their links lead somewhere, and README.md is short."""

import re
import runpy
import shlex
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from mm1.catalog import check_studies, recipe
from mm1.cli import parse_arguments

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "benchmarks/*.md",
        "studies/*.md",
        "mm1/**/*.md",
        "tests/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
CODE = re.compile(r"^```.*?^```|^(?: {4}|\t).*?$|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r'(?:\]\(|\bsrc="|\bsrcset=")([^)\s"]+)')
HEADING = re.compile(r"^#{1,6} +(.+?)\s*$", re.M)


@cache
def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    found: set[str] = set()
    for heading in HEADING.findall(text):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = next(
            n for n in range(100) if (f"{slug}-{n}" if n else slug) not in found
        )
        found.add(f"{slug}-{number}" if number else slug)
    return found


def broken(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for link in LINK.findall(CODE.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# One, two & three\n\n# One, two & three\n")
    (tmp_path / "b.md").write_text("## `mm1 view` it\n")
    good = "[a](#one-two--three-1) [b](b.md#mm1-view-it) [c](https://x.org/y)"
    assert broken(page, good) == []
    bad = '[a](#one) [b](b.md#view) [c](c.md) `[d](d.md)` <img src="e.svg">'
    assert broken(page, bad) == ["#one", "b.md#view", "c.md", "e.svg"]


def test_the_readme_can_be_read_in_a_few_minutes() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_the_page_of_commands_is_that_of_their_parsers() -> None:
    made = runpy.run_path(str(ROOT / "docs/site/commands.py"))
    page = (ROOT / "docs/commands.md").read_text()
    assert page == made["page"](), "python docs/site/commands.py writes it"
    headings = re.findall(r"^## mm1 (\S+)$", page, re.M)
    assert made["GUIDES"].keys() <= set(headings)


def test_contributing_says_where_everything_in_the_package_is() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text()
    tree = tree.partition("## Where things are")[2].partition("## ")[0]
    for path in (ROOT / "mm1").iterdir():
        if path.name not in ("__pycache__", "py.typed"):
            name = f"{path.name}/" if path.is_dir() else path.name
            assert re.search(rf"[ (]{re.escape(name)}", tree), name


def commands_in(text: str) -> list[str]:
    """The commands of mm1 in blocks of code, without what stands for more."""
    text = text.replace("\\\n", " ")
    lines = re.findall(
        r"^(?: {4})?(?:torchrun .*-m |\.venv/bin/)?mm1(?:\.cli)? .*$",
        text,
        re.M,
    )
    found = (re.sub(r".*?\bmm1(\.cli)? ", "", line, count=1) for line in lines)
    return [each for each in found if not re.search(r"\.\.\.|[][|]", each)]


USERS = ("my_finetune",)
"""Recipes that a reader is to have written."""
GUIDES = [
    path
    for path in PAGES
    if path.is_relative_to(ROOT / "docs") or path.parent == ROOT
    if path.name not in ("LOG.md", "faults.md", "commands.md")
]


@pytest.mark.parametrize(
    "page", GUIDES, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_commands_on_a_page_have_the_options_that_there_are(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in commands_in(page.read_text()):
        words = shlex.split(command, comments=True)
        monkeypatch.setattr(sys, "argv", ["mm1", *words])
        try:
            arguments = vars(parse_arguments())
        except SystemExit:
            pytest.fail(command)
        if words[0] == "study":
            check_studies(arguments["names"])
        if words[0] in ("train", "plan", "launch"):
            name = arguments.get("name") or arguments["recipe"]
            if not (name.isupper() or "/" in name or name in USERS):
                recipe(name)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    found = set(re.findall(r"[\w/-]+\.md$", navigation, re.M))
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in found


def test_the_page_of_extras_has_all() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/install.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", page, re.M)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert named == project["optional-dependencies"].keys()
