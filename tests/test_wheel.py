"""A wheel, built and installed where the repository is not: only what a plain
`pip install` brings is there."""

import os
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import raw_files
from environments import base_distributions

ROOT = Path(__file__).parents[1]


def sh(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MM1_"))
    }
    return subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def tracked_files() -> set[str]:
    listed = sh("git", "ls-files", "mm1", cwd=ROOT)
    if listed.returncode != 0:
        pytest.skip("no git repository to compare with")
    return set(listed.stdout.split())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in (*tracked_files(), "pyproject.toml", "README.md", "LICENSE"):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(ROOT / name)
    built = sh(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
        *("--no-build-isolation", "--no-index", "--wheel-dir", folder, source),
        cwd=folder,
    )
    assert built.returncode == 0, built.stderr
    (made,) = folder.glob("mm1-*.whl")
    return made


def test_the_wheel_has_every_file_but_the_folders_readmes(wheel: Path) -> None:
    packed = {
        name
        for name in zipfile.ZipFile(wheel).namelist()
        if ".dist-info/" not in name
    }
    tracked = tracked_files()
    readmes = {
        name.replace("__init__.py", "README.md")
        for name in tracked
        if name.endswith("/__init__.py")
    }
    wanted = tracked - readmes
    assert packed == wanted
    kinds = {Path(name).suffix for name in packed}
    assert {".py", ".typed", ".html", ".json", ".jinja"} <= kinds


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """The Python of a new environment: mm1 from the wheel, and links to the packages of
    a plain install."""
    folder = wheel.parent / "environment"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = (folder / "lib").glob("python*/site-packages")
    for name in base_distributions():
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or ()}:
            target = Path(str(found.locate_file(top)))
            link = site / top
            if top not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(target)
    installed = sh(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--quiet", "--no-deps", "--no-index", wheel),
        cwd=wheel.parent,
    )
    assert installed.returncode == 0, installed.stderr
    return python


IN_ONE_PROCESS = """
import contextlib, io, sys
import mm1.cli
for words in sys.stdin.read().splitlines():
    sys.argv = ["mm1", *words.split()]
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            mm1.cli.main()
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    print(code, said.getvalue().strip().replace("\\n", "\\\\n"), sep="|")
print("from", mm1.__file__)
"""
NEEDS = {
    "demo": ("sklearn", "miniature"),
    "study miniature_text --out studies": ("sklearn", "miniature"),
    "chat run": ("uvicorn", "chat"),
    "prepare text a.jsonl --out near --tokenizer t.json"
    " filters.duplicates.near=0.8": ("datasketch", "filters"),
    "prepare text a.jsonl --out ray --tokenizer t.json --on ray": (
        "ray",
        "ray",
    ),
    "deduplicate text a.jsonl --out copies filters.duplicates.exact=True": (
        "datatrove",
        "datatrove",
    ),
    "show s3://bucket/run": ("s3fs", "cloud"),
    "train miniature_dense loader.sources.text=text loader.weights.text=1"
    " lora=lora --out lora": ("peft", "lora"),
    "train miniature_dense loader.sources.text=text loader.weights.text=1"
    " trackers=['wandb'] --out tracked": ("wandb", "logging"),
}
"""Command -> the package that it lacks, and its extra."""
WORKS = [
    "tokenizer a.jsonl --out t.json --vocab-size 300",
    "prepare text a.jsonl --out text --tokenizer t.json",
    "list connectors",
    "show sft_small",
]


def test_what_works_without_extras_and_what_names_its_own(
    python: Path, tmp_path: Path
) -> None:
    raw_files.write_lines(
        tmp_path / "a.jsonl", [{"text": f"so many words {i}"} for i in range(9)]
    )
    commands = [*WORKS, *NEEDS]
    done = subprocess.run(
        [python, "-c", IN_ONE_PROCESS],
        input="\n".join(commands),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    *lines, origin = done.stdout.splitlines()
    assert origin.startswith(f"from {python.parents[1]}")
    outcomes = dict(zip(commands, lines, strict=True))
    for command in WORKS:
        assert outcomes[command].startswith("0|"), outcomes[command]
    for command, (package, extra) in NEEDS.items():
        wanted = f"needs {package}: pip install 'mm1[{extra}]'"
        code, _, said = outcomes[command].partition("|")
        assert code == "2", outcomes[command]
        assert "Traceback" not in said, said
        assert said.endswith(wanted), said


def test_the_installed_command_answers(python: Path, tmp_path: Path) -> None:
    asked = sh(python.with_name("mm1"), "--version", cwd=tmp_path)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith("mm1 0.")
