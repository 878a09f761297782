"""Mutation testing: plants one fault after another and runs the tests that should fail.

    python tests/mutations.py                 # all; goes on where it was stopped
    python tests/mutations.py shots.py /nn/   # paths or names with such a word,
                                              # in the order of the words
    python tests/mutations.py --check         # only: can each be applied? (`make test`)
    python tests/mutations.py --write         # all, then tests/mutations/README.md
    python tests/mutations.py --known         # what is known so far

The faults stand in tests/mutations/*.toml: the file, the exact text that is replaced
(it occurs there once), the new text, and the tests that should fail. They are planted
in a temporary copy of the tree; the working tree is never touched. What a fault of this
kind would be called is its name, so that a survivor reads as what is not tested:

    killed      a test failed, or could no longer be collected
    survived    all tests passed; where that is right, `survives` gives the reason
    timed out   the tests took far longer than without the fault

Python, torch and pytest are started once: each mutation is a fork of that process,
which imports mm1 from the copy. Tests run without the checks of shapes at first, which
add 2 s to that import; what survives is tried again with them. So one takes seconds,
most of them the tests' own.

mutmut and cosmic-ray were considered. Both plant operators by rule (thousands in these
folders, each to be judged) and know no names. mutmut 3 leaves out what is outside of
functions, such as the defaults of configs and the constants of formulas; cosmic-ray
starts a process for each mutation, which here is 10 s of imports, in the working tree.
"""

import argparse
import ast
import contextlib
import datetime
import gc
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
LISTS = "tests/mutations"
PAGE = "tests/mutations/README.md"
RESULTS = "build/mutations.jsonl"

PRELOADED = (
    "torch",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch.optim._muon",
    "torch.utils.data",
    "torch.utils.flop_counter",
    "numpy",
    "PIL.Image",
    "beartype.claw",
    "jaxtyping",
    "hypothesis.strategies",
    "hypothesis.extra.numpy",
    "pytest",
    "datasets",
    "pyarrow.parquet",
    "rich.progress",
    "safetensors.torch",
    "sklearn.datasets",
    "tokenizers",
    "xxhash",
)
"""Imported once for all mutations, where installed."""


BROKEN = 70
"""Exit code of a run that is at fault itself."""


@dataclass(frozen=True, kw_only=True)
class Mutation:
    name: str
    path: str
    """Of the file, from the root."""
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""
    """Why no test can fail; empty: one should."""

    def source(self, root: Path) -> str:
        """The mutated file.

        Raises:
            ValueError: it cannot be applied.
        """
        text = (root / self.path).read_text()
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"its old text occurs {count} times")
        if self.new == self.old:
            raise ValueError("it changes nothing")
        return text.replace(self.old, self.new)

    def check(self, root: Path) -> None:
        """Raises ValueError if it cannot be applied or tested, which an edit of the
        file or the tests may bring about: then edit the list."""
        try:
            ast.parse(self.source(root))
        except (OSError, SyntaxError) as error:
            raise ValueError(str(error)) from error
        for test in self.tests:
            path, *names = test.split("::")
            if not (root / path).is_file():
                raise ValueError(f"there is no {path}")
            text = (root / path).read_text()
            if names and f"def {names[-1].split('[')[0]}(" not in text:
                raise ValueError(f"there is no test {test}")

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


def read_lists(root: Path) -> list[Mutation]:
    """All mutations, in the order of their lists."""
    return [
        Mutation(
            path=file["path"],
            **{"tests": tuple(file["tests"])}
            | entry
            | ({"tests": tuple(entry["tests"])} if "tests" in entry else {}),
        )
        for path in sorted((root / LISTS).glob("*.toml"))
        for file in tomllib.loads(path.read_text())["file"]
        for entry in file["mutation"]
    ]


def faults_of_lists(root: Path, mutations: Sequence[Mutation]) -> list[str]:
    """What is wrong with the lists, a line for each fault."""
    faults = [
        f"{name} occurs {count} times"
        for name, count in Counter(map(str, mutations)).items()
        if count > 1
    ]
    for mutation in mutations:
        try:
            mutation.check(root)
        except ValueError as error:
            faults.append(f"{mutation}: {error}")
    return faults


# ------------------------------------------------------------------ one run of pytest


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def text_of_tests(root: Path, tests: Sequence[str]) -> str:
    files = dict.fromkeys(test.split("::")[0] for test in tests)
    return "\0".join([*tests, *((root / f).read_text() for f in files)])


def grounds(root: Path, mutation: Mutation, entry: dict[str, Any]) -> str:
    """What a result rests on, as a digest: the test that failed, or all that passed. As
    long as it stays, so does the result."""
    path, *names = entry["by"].split("::")
    if entry["result"] == "killed" and names and (root / path).is_file():
        text = (root / path).read_text()
        name = names[-1].split("[")[0]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return digest(ast.get_source_segment(text, node) or "")
    return digest(text_of_tests(root, mutation.tests))


class FirstFailure:
    """A pytest plug-in that remembers which test failed."""

    def __init__(self) -> None:
        self.node = ""

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.node = self.node or report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.node = self.node or f"{report.nodeid} (collecting)"


def run_tests(
    folder: Path,
    tests: Sequence[str],
    log: Path,
    *,
    shapes: bool,
    limit: float,
) -> NoReturn:
    """In a forked process: runs pytest in a copy of the tree."""
    os.setsid()
    resource.setrlimit(
        resource.RLIMIT_CPU, (math.ceil(limit), math.ceil(limit))
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if p != str(ROOT))]
    sys.path[:] = [p for p in sys.path if p != str(ROOT / "tests")]
    sys.dont_write_bytecode = "warm" not in log.name
    found = importlib.util.find_spec("mm1")
    assert found is not None
    assert str(found.origin).startswith(str(folder)), found.origin
    # The tests' own server is started where a test needs it, not for every mutation.
    from multiprocessing import forkserver

    forkserver.ensure_running = lambda: None
    import pytest

    failure = FirstFailure()
    code = pytest.main(
        [
            *("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
            "--hypothesis-seed=0",
            *("-m", "not long and not gpu"),
            *(() if shapes else ("-o", "addopts=--strict-markers")),
            f"--basetemp={folder}.tmp",
            *tests,
        ],
        plugins=[failure],
    )
    log.with_suffix(".by").write_text(failure.node)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


@dataclass(kw_only=True)
class Run:
    """Tests that run in a copy of the tree."""

    folder: Path
    tests: Sequence[str]
    mutation: Mutation | None = None
    """None: the tree as it is."""
    shapes: bool = False
    """Are shapes checked?"""
    limit: float = 1200.0
    """Seconds of a core; it may take ten times as long where cores are busy."""
    pid: int = 0
    start: float = 0.0

    @property
    def log(self) -> Path:
        kind = "log" if self.mutation else "warm"
        return self.folder.with_name(f"{self.folder.name}.{kind}")

    @property
    def _path(self) -> Path:
        assert self.mutation is not None
        return self.folder / self.mutation.path

    @property
    def _kept(self) -> Path:
        """The file as it was."""
        return self.folder.with_suffix(".kept")

    def begin(self) -> None:
        if self.mutation is not None:
            source = self.mutation.source(self.folder)
            shutil.copy2(self._path, self._kept)
            self._path.write_text(source)
            # Of another time than the file's compiled form, whatever the clock.
            later = time.time() + 10
            os.utime(self._path, (later, later))
        self.log.with_suffix(".by").unlink(missing_ok=True)
        self.start = time.monotonic()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                run_tests(
                    self.folder,
                    self.tests,
                    self.log,
                    shapes=self.shapes,
                    limit=self.limit,
                )
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(BROKEN)
        CHILDREN.add(self.pid)

    def result(self) -> dict[str, Any] | None:
        """None while it runs."""
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        stuck = pid == 0 and time.monotonic() - self.start > 10 * self.limit
        if pid == 0 and not stuck:
            return None
        self.end(reap=stuck)
        code = 0 if stuck else os.waitstatus_to_exitcode(status)
        timed_out = stuck or code in (-signal.SIGXCPU, -signal.SIGKILL)
        by = self.log.with_suffix(".by")
        return {
            "result": "timed out" if timed_out else _meaning(code),
            "seconds": round(used.ru_utime + used.ru_stime, 1),
            "by": by.read_text() if by.is_file() else f"exit code {code}",
        }

    def end(self, *, reap: bool) -> None:
        """Stops what is left of it, and takes the fault out of the copy."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        CHILDREN.discard(self.pid)
        if reap:
            os.waitpid(self.pid, 0)
        if self.mutation is not None:
            shutil.move(self._kept, self._path)
        shutil.rmtree(f"{self.folder}.tmp", ignore_errors=True)


CHILDREN: set[int] = set()
"""Process groups that run now."""


@contextlib.contextmanager
def children_stopped() -> Iterator[None]:
    """Stops what runs when it is left, such as by Ctrl-C."""
    try:
        yield
    finally:
        for pid in CHILDREN:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _meaning(code: int) -> str:
    """Of pytest's exit code: 1 a test failed, 2 one could not be collected, below 0 the
    process broke down; others are no verdict on the tests."""
    if code == 0:
        return "survived"
    return "killed" if code in (1, 2) or code < 0 else "not run"


# ------------------------------------------------------------------ all of them


@dataclass(kw_only=True)
class Results:
    """Results by key, in a file to which each is added at once."""

    path: Path
    known: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, path: Path, *, fresh: bool) -> "Results":
        if fresh:
            path.unlink(missing_ok=True)
        lines = path.read_text().splitlines() if path.is_file() else []
        entries = [json.loads(line) for line in lines if line.endswith("}")]
        return cls(path=path, known={each["key"]: each for each in entries})

    def add(self, key: str, entry: dict[str, Any]) -> None:
        entry = {"key": key, **entry}
        self.known[key] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def copy_tree(folder: Path) -> None:
    """A copy of what git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def preload() -> None:
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # Forks share what is here: their collectors, which pytest calls, leave it alone.
    gc.collect()
    gc.freeze()


class Unmutated:
    """What tests do without a fault: they are run once, before the first mutation that
    needs them. This also compiles the copy's files."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def seconds(
        self, tests: Sequence[str], folder: Path, *, shapes: bool
    ) -> float:
        """Seconds of a core that they take.

        Raises:
            SystemExit: one fails.
        """
        groups = [tests] if shapes else [[test] for test in tests]
        return sum(self._seconds(group, folder, shapes) for group in groups)

    def _seconds(
        self, tests: Sequence[str], folder: Path, shapes: bool
    ) -> float:
        key = digest(text_of_tests(ROOT, tests), str(shapes))
        if key not in self.results.known:
            run = Run(folder=folder, tests=tests, shapes=shapes)
            run.begin()
            (result,) = _wait([run]).values()
            if result["result"] != "survived":
                raise SystemExit(
                    f"{run.log.read_text()[-4000:]}\n{tests} fail without any fault:"
                    f" {result}"
                )
            entry = {"unmutated": tests, "shapes": shapes} | result
            self.results.add(key, entry)
            print(
                f"without a fault in {result['seconds']:.1f} s: {' '.join(tests)}",
                flush=True,
            )
        return self.results.known[key]["seconds"]


def _wait(runs: Sequence[Run]) -> dict[int, dict[str, Any]]:
    """Waits until one of the runs has ended; the results of those that have, by process
    id."""
    while True:
        ended = {
            run.pid: result
            for run in runs
            if (result := run.result()) is not None
        }
        if ended:
            return ended
        time.sleep(0.02)


def key_of(mutation: Mutation) -> str:
    return digest(code_of(mutation.source(ROOT)), *mutation.tests)


def code_of(source: str) -> str:
    """What is left without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            body[:] = [each for each in body if not _is_text(each)]
    return ast.dump(tree)


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def known_results(
    mutations: Sequence[Mutation], results: Results
) -> list[tuple[Mutation, dict[str, Any]]]:
    """Those of mutations that need not be run again."""
    found = []
    for each in mutations:
        entry = results.known.get(key_of(each))
        if entry and entry["grounds"] == grounds(ROOT, each, entry):
            found.append((each, entry))
    return found


def run_all(
    mutations: Sequence[Mutation], results: Results, *, jobs: int, slack: float
) -> Iterator[tuple[Mutation, dict[str, Any]]]:
    """Runs each mutation."""
    if not mutations:
        return
    keys = {each: key_of(each) for each in mutations}
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as temporary,
        children_stopped(),
    ):
        folders = [Path(temporary) / f"copy-{i}" for i in range(jobs)]
        for folder in folders:
            copy_tree(folder)
        preload()
        unmutated = Unmutated(results)
        running: dict[int, Run] = {}
        waiting = [(each, False) for each in reversed(mutations)]
        while waiting or running:
            while waiting and len(running) < jobs:
                used = {run.folder for run in running.values()}
                folder = next(f for f in folders if f not in used)
                run = _begun(*waiting.pop(), folder, unmutated, slack)
                running[run.pid] = run
            for pid, result in _wait(list(running.values())).items():
                run = running.pop(pid)
                mutation = run.mutation
                assert mutation is not None
                if result["result"] == "survived" and not run.shapes:
                    waiting.insert(0, (mutation, True))
                    print(f"survived, shapes unchecked: {mutation}", flush=True)
                    continue
                entry = {"mutation": str(mutation), **result}
                entry["grounds"] = grounds(run.folder, mutation, entry)
                if result["result"] != "not run":
                    results.add(keys[mutation], entry)
                yield mutation, entry


def _begun(
    mutation: Mutation,
    shapes: bool,
    folder: Path,
    unmutated: Unmutated,
    slack: float,
) -> Run:
    seconds = unmutated.seconds(mutation.tests, folder, shapes=shapes)
    run = Run(
        folder=folder,
        tests=mutation.tests,
        mutation=mutation,
        shapes=shapes,
        limit=slack + 4 * seconds,
    )
    run.begin()
    return run


# ------------------------------------------------------------------ what it says


def summary(found: Sequence[tuple[Mutation, dict[str, Any]]]) -> str:
    """Counts, and what was not killed."""
    counts = Counter(entry["result"] for _, entry in found)
    killed = counts["killed"]
    lines = [
        f"{killed} of {len(found)} mutations killed"
        f" ({100 * killed / max(1, len(found)):.1f}%), "
        + ", ".join(f"{counts[name]} {name}" for name in OTHERS)
    ]
    for mutation, entry in found:
        if entry["result"] != "killed":
            why = f" ({mutation.survives})" if mutation.survives else ""
            lines.append(f"{entry['result']}: {mutation}{why}")
        elif mutation.survives:
            lines.append(f"killed, though said to survive: {mutation}")
    return "\n".join(lines)


OTHERS = ("survived", "timed out", "not run")


def page(
    found: Sequence[tuple[Mutation, dict[str, Any]]], *, num_open: int
) -> str:
    """The page of a run over all lists, of which some may not have been run yet."""
    counts: dict[str, Counter[str]] = {}
    for mutation, entry in found:
        folder = str(Path(mutation.path).parent)
        counts.setdefault(folder, Counter())[entry["result"]] += 1
    killed = sum(each["killed"] for each in counts.values())
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "numpy", "pytest", "hypothesis", "jaxtyping")
    )
    lines = [
        "# Mutations",
        "",
        "Faults that are planted in a copy of the code, one at a time, and what the",
        "tests make of them. Made by `python tests/mutations.py --write`; what a list",
        "holds and how to add to it stands at the top of `tests/mutations.py`.",
        "",
        f"**{killed} of {len(found)} killed"
        f" ({100 * killed / len(found):.1f}%)** on {datetime.date.today()}, with Python"
        f" {platform.python_version()}, {versions}.",
        f"They took {sum(e['seconds'] for _, e in found) / 60:.0f} minutes of one core."
        + (f" {num_open} more have not been run yet." if num_open else ""),
        "",
        "| Folder | Mutations | Killed | Survived | Timed out |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for folder, each in sorted(counts.items()):
        cells = (each.total(), each["killed"], *(each[o] for o in OTHERS[:2]))
        lines.append(f"| `{folder}` | {' | '.join(map(str, cells))} |")
    lines += ["", "## Not killed", ""]
    for mutation, entry in found:
        if entry["result"] != "killed":
            why = mutation.survives or "No test fails yet."
            lines += [
                f"**{mutation.name}** (`{mutation.path}`, {entry['result']}). {why}",
                "",
                "```diff",
                *(f"- {line}" for line in mutation.old.strip().splitlines()),
                *(f"+ {line}" for line in mutation.new.strip().splitlines()),
                "```",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Plants faults in a copy of the code and runs the tests that should"
        " fail (see the top of this file)."
    )
    parser.add_argument(
        "words", nargs="*", help="only mutations whose path or name has one"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="only check that each can be applied",
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="at a time; default 1"
    )
    parser.add_argument(
        "--slack",
        type=float,
        default=30.0,
        help="seconds of a core beyond four times what the tests take without a fault,"
        " after which they are stopped; default 30",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help=f"forget the results in {RESULTS}, which hold as long as the mutated file"
        " and the tests stay; do so after edits elsewhere",
    )
    parser.add_argument(
        "--known",
        action="store_true",
        help=f"run none, report what {RESULTS} has",
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write {PAGE} at the end"
    )
    return parser.parse_args()


def main() -> int:
    """0: all were killed that should be; 1: not all; 2: the lists are out of date; 130:
    interrupted."""
    args = arguments()
    mutations = read_lists(ROOT)
    if faults := faults_of_lists(ROOT, mutations):
        print("\n".join([*faults, f"mend the lists in {LISTS}"]))
        return 2
    if args.check:
        print(f"{len(mutations)} mutations can be applied")
        return 0
    chosen = list(
        dict.fromkeys(
            each
            for word in args.words or [""]
            for each in mutations
            if word in str(each)
        )
    )
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, signal.default_int_handler)
    results = Results.open(ROOT / RESULTS, fresh=args.fresh)
    found = known_results(chosen, results)
    seen = {mutation for mutation, _ in found}
    waiting = [each for each in chosen if each not in seen and not args.known]
    begin = time.monotonic()
    try:
        for num_new, (mutation, entry) in enumerate(
            run_all(waiting, results, jobs=args.jobs, slack=args.slack), 1
        ):
            found.append((mutation, entry))
            pace = (time.monotonic() - begin) / num_new
            left = pace * (len(chosen) - len(found)) / 60
            print(
                f"{len(found)}/{len(chosen)} {entry['result']} in"
                f" {entry['seconds']:.1f} s: {mutation}   ({60 / pace:.0f} a minute,"
                f" {left:.0f} min left)",
                flush=True,
            )
    except KeyboardInterrupt:
        print(
            f"\nstopped after {len(found)}; the same command goes on from there"
        )
        return 130
    order = {each: i for i, each in enumerate(chosen)}
    found.sort(key=lambda pair: order[pair[0]])
    print(summary(found))
    if args.write and not args.words:
        (ROOT / PAGE).write_text(page(found, num_open=len(chosen) - len(found)))
    wrong = [
        mutation
        for mutation, entry in found
        if (entry["result"] != "killed") != bool(mutation.survives)
    ]
    return 1 if wrong or len(found) < len(chosen) else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
