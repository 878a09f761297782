"""The budgets of CONTRIBUTING.md, counted over the package: how long functions and
files are, how densely they are written, and which public names have two meanings.

    python benchmarks/structure.py            # the table
    python benchmarks/structure.py --check    # what is over budget; exit code 1 if any

Statements are those of the syntax tree, nested ones and docstrings included.
"""

import argparse
import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "mm1"

MOST_IN_FUNCTION = 30
MOST_IN_LOOP = 60
MOST_IN_FILE = 220
MOST_LINES = 400
MOST_SHARED_NAMES = 0.02

LOOP = ("train/trainer.py", "fit")
"""The training loop may be longer than other functions."""

EXCEPTIONS: dict[str, str] = {
    "UserError": "export/remote/base.py stands in for mm1.config in exported models",
    "ConfigError": "export/remote/base.py stands in for mm1.config in exported models",
    "Module": "export/remote/base.py stands in for mm1.nn.model in exported models",
}
"""Public names that may have a second home, and why."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def statements(node: ast.AST) -> int:
    return sum(isinstance(inner, ast.stmt) for inner in ast.walk(node))


def several_at_once(node: ast.AST) -> bool:
    """Does it assign a tuple of values to a tuple of targets?"""
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Tuple)
        and any(isinstance(target, ast.Tuple) for target in node.targets)
    )


def could_be_apart(node: ast.AST) -> bool:
    """Several at once, though no value needs what the statement itself assigns (a swap
    does)?"""
    if not (several_at_once(node) and isinstance(node, ast.Assign)):
        return False
    return not _places(node.targets[0]) & _places(node.value)


def _places(node: ast.AST) -> set[str]:
    """Names and attributes in it, as they are written."""
    inner = (
        n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)
    )
    return {ast.unparse(n) for n in inner} - {"self"}


class Structure:
    """All files of a package, parsed."""

    def __init__(self, package: Path) -> None:
        self.trees: dict[str, ast.Module] = {}
        self.lines: dict[str, int] = {}
        for path in sorted(package.rglob("*.py")):
            name = path.relative_to(package).as_posix()
            text = path.read_text(encoding="utf-8")
            self.trees[name] = ast.parse(text)
            self.lines[name] = text.count("\n")

    def names(self) -> dict[str, set[str]]:
        """Public functions and classes of modules -> the files that define one."""
        homes: dict[str, set[str]] = defaultdict(set)
        for name, tree in self.trees.items():
            for node in tree.body:
                kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
                if isinstance(node, kinds) and not node.name.startswith("_"):
                    homes[node.name].add(name)
        return homes

    def shared_names(self) -> dict[str, set[str]]:
        return {
            name: homes
            for name, homes in self.names().items()
            if len(homes) > 1
        }

    def folders(self) -> Counter[str]:
        """Lines of the files that lie directly in each folder."""
        counter: Counter[str] = Counter()
        for name, lines in self.lines.items():
            counter[name.rpartition("/")[0]] += lines
        return counter

    def tuple_assignments(self) -> int:
        nodes = (
            node for tree in self.trees.values() for node in ast.walk(tree)
        )
        return sum(map(several_at_once, nodes))

    def over_budget(self) -> Iterator[str]:
        """A line for each thing that is over its budget."""
        for name, tree in self.trees.items():
            if (number := statements(tree)) > MOST_IN_FILE:
                yield f"mm1/{name}: {number} statements; at most {MOST_IN_FILE}"
            if (number := self.lines[name]) > MOST_LINES:
                yield f"mm1/{name}: {number} lines; at most {MOST_LINES}"
            for node in ast.walk(tree):
                if isinstance(node, Function):
                    most = MOST_IN_FUNCTION
                    if (name, node.name) == LOOP:
                        most = MOST_IN_LOOP
                    if (number := statements(node) - 1) > most:
                        where = f"mm1/{name}:{node.lineno} {node.name}"
                        yield f"{where}: {number} statements; at most {most}"
                if could_be_apart(node):
                    where = f"mm1/{name}:{node.lineno}"  # type: ignore[attr-defined]
                    yield f"{where}: several things assigned in one line"
        for name, homes in self.shared_names().items():
            if name not in EXCEPTIONS:
                yield f"{name} is defined in {' and '.join(sorted(homes))}"

    def table(self) -> str:
        lines = sum(self.lines.values())
        number = sum(map(statements, self.trees.values()))
        shared = len(self.shared_names())
        names = len(self.names())
        folder, most = self.folders().most_common(1)[0]
        return "\n".join(
            (
                "| | |\n|---|---|",
                f"| lines, files | {lines:,}, {len(self.trees)} |",
                f"| public names defined in two files or more | {shared} of {names},"
                f" {shared / names:.1%} |",
                "| largest folder's share of lines |"
                f" mm1/{folder}, {most / lines:.1%} |",
                f"| statements in 100 lines | {100 * number / lines:.1f} |",
                "| tuple assignments in 1,000 lines |"
                f" {1000 * self.tuple_assignments() / lines:.1f} |",
            )
        )


def main() -> int:
    parser = argparse.ArgumentParser(description="Budgets of the code.")
    parser.add_argument(
        "--check", action="store_true", help="name what is over"
    )
    parser.add_argument("--package", type=Path, default=PACKAGE)
    options = parser.parse_args()
    structure = Structure(options.package)
    if not options.check:
        print(structure.table())
        return 0
    over = list(structure.over_budget())
    print("\n".join(over), file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
