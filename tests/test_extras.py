"""What only an extra brings is imported where a missing package is one line."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from environments import base_distributions, base_modules
from packaging.requirements import Requirement

from mm1.config import ConfigError
from mm1.extras import installs, needs_extra

ROOT = Path(__file__).parents[1]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "mm1").rglob("*.py"))
}
NOT_OURS = ("mm1.export.remote.", "mm1.harness.lmms_eval")
"""Imported by transformers and by lmms-eval, where these are installed."""
EXTRAS: dict[str, list[str]] = tomllib.loads(
    (ROOT / "pyproject.toml").read_text()
)["project"]["optional-dependencies"]


def imports(
    node: ast.AST, guard: str | None = None
) -> Iterator[tuple[str, str | None]]:
    """The modules that are imported below a statement, each with the extra that guards
    it; what only type checkers read is no import."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from ((alias.name, guard) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or "", guard
        yield from ((f"{node.module}.{a.name}", guard) for a in node.names)
    elif isinstance(node, ast.With):
        guard = guard_of(node) or guard
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from imports(child, guard)


def guard_of(node: ast.With) -> str | None:
    """The extra that the block names, if it does."""
    for item in node.items:
        call = item.context_expr
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == needs_extra.__name__
        ):
            return ast.literal_eval(call.args[0])
    return None


IMPORTS = {
    name: list(imports(ast.parse(path.read_text())))
    for name, path in FILES.items()
}


def is_optional(module: str) -> bool:
    top = module.partition(".")[0]
    known = base_modules() | sys.stdlib_module_names
    return top not in known | {"mm1", "__main__"}


def importers(module: str) -> list[tuple[str, str | None]]:
    """The files of mm1 that import one, each with its guard."""
    return [
        (name, guard)
        for name, found in IMPORTS.items()
        for each, guard in found
        if each == module
    ]


def extras_around(module: str, guard: str | None) -> set[str | None]:
    """The guards that stand around an import in a file: its own, or else those of every
    import of the file itself; None for one that has no guard."""
    if guard is not None:
        return {guard}
    found: set[str | None] = set()
    seen = {module}
    waiting = [module]
    while waiting:
        above = importers(waiting.pop())
        found |= {outer for _, outer in above if outer}
        bare = {name for name, outer in above if outer is None} - seen
        seen |= bare
        waiting += bare
        if not above:
            found.add(None)
    return found


def packages_of(extra: str) -> set[str]:
    """The packages of an extra, those of others that it includes, too."""
    found: set[str] = set()
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == "mm1":
            for other in requirement.extras:
                found |= packages_of(other)
        else:
            found.add(requirement.name)
    return found


OPTIONAL = [
    (name, module, guard)
    for name, found in IMPORTS.items()
    for module, guard in found
    if is_optional(module) and not name.startswith(NOT_OURS)
]


@pytest.mark.parametrize(("name", "module", "guard"), OPTIONAL)
def test_what_an_extra_brings_is_asked_for_by_its_name(
    name: str, module: str, guard: str | None
) -> None:
    extras = extras_around(name, guard)
    assert extras <= EXTRAS.keys(), f"{name} imports {module} without a guard"


def test_there_are_such_imports_and_only_torch_is_heavy() -> None:
    tops = {module.partition(".")[0] for _, module, _ in OPTIONAL}
    assert {"sklearn", "uvicorn", "ray", "peft", "datatrove"} <= tops
    assert {"torch", "tokenizers", "datasets"} <= base_distributions()
    assert not {"scikit-learn", "fastapi", "pytest"} & base_distributions()


def test_the_line_names_package_and_command() -> None:
    with (
        pytest.raises(ConfigError, match=r"of it needs not_there: pip install"),
        needs_extra("chat", "some part of it"),
    ):
        import not_there.at_all  # type: ignore[import-not-found] # noqa: F401


def test_a_fault_of_our_own_is_no_missing_extra() -> None:
    with (
        pytest.raises(ModuleNotFoundError, match=r"mm1\.not_there"),
        needs_extra("chat", "some part of it"),
    ):
        import mm1.not_there  # type: ignore[import-not-found] # noqa: F401


def test_every_extra_that_is_named_exists() -> None:
    named = {
        (path, extra)
        for folder in ("mm1", "docs", "README.md")
        for path in (
            [ROOT / folder]
            if folder.endswith(".md")
            else (ROOT / folder).rglob("*")
        )
        if path.suffix in {".py", ".md", ".html", ".ipynb"}
        for extra in re.findall(r"mm1\[([a-z]+)\]", path.read_text())
    }
    named |= {
        (FILES[name], guard)
        for name, found in IMPORTS.items()
        for _, guard in found
        if guard
    }
    assert len(named) > 10
    assert not {each for each in named if each[1] not in EXTRAS}
    assert all(packages_of(extra) for extra in EXTRAS)
    assert installs("chat") == "pip install 'mm1[chat]'"
