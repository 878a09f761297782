"""What the command line takes and says."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

from mm1 import cli
from mm1.cli.list import GROUPS


def test_overrides_may_stand_before_and_after_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (
        "mm1 train pretrain_small steps=3 --out x --resume loader.batch_size=2"
        " optimizer.peak_lr=-1"
    )
    monkeypatch.setattr("sys.argv", command.split())
    arguments = cli.parse_arguments()
    assert arguments.overrides == [
        "steps=3",
        "loader.batch_size=2",
        "optimizer.peak_lr=-1",
    ]
    assert (str(arguments.out), arguments.resume) == ("x", True)


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        (
            "mm1 study mixture --out x --seeds 1 2 STAGE:steps=3",
            "seeds",
            [1, 2],
        ),
        (
            "mm1 study lr-law --fit x --predict 2e9 3 steps=3",
            "predict",
            [2e9, 3],
        ),
        ("mm1 eval runs/x --shots 0 4 batch=3", "shots", [0, 4]),
        ("mm1 eval runs/x --benchmarks coco batch=3", "benchmarks", ["coco"]),
    ],
)
def test_overrides_may_follow_an_option_of_several_values(
    command: str,
    option: str,
    values: list[object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command.split()
    monkeypatch.setattr("sys.argv", words)
    arguments = cli.parse_arguments()
    assert getattr(arguments, option) == values
    assert arguments.overrides == words[-1:]
    if option in ("seeds", "shots"):
        monkeypatch.setattr("sys.argv", [*words[:-2], "two"])
        with pytest.raises(SystemExit):
            cli.parse_arguments()
        assert "invalid int value: 'two'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "mm1 prepare text raw/day=1 more source.field=body --out x --tokenizer t"
        " filters.text.min_words=2 filters=web_text",
        "mm1 prepare text --out x raw/day=1 more source.field=body"
        " filters.text.min_words=2 --tokenizer t filters=web_text",
    ],
)
def test_overrides_are_told_from_paths(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", command.split())
    arguments = cli.parse_arguments()
    assert arguments.paths == ["raw/day=1", "more"]
    assert arguments.overrides == [
        "source.field=body",
        "filters.text.min_words=2",
        "filters=web_text",
    ]


def test_options_keep_their_values_with_an_equals_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (
        "mm1 study mixture pretrain:steps=9 --ask gpus=8 --out x --jobs 2"
        " log_every=1"
    )
    monkeypatch.setattr("sys.argv", command.split())
    arguments = cli.parse_arguments()
    assert arguments.names == ["mixture"]
    assert arguments.overrides == ["pretrain:steps=9", "log_every=1"]
    assert arguments.ask == ["gpus=8"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("prepare text a --out b --tokenizer c --workers 0", "at least 1"),
        ("prepare text a --out b --tokenizer c --validation 2", "at most 1"),
        ("deduplicate text a --out b --workers -3", "at least 1"),
        ("deduplicate text a --out b --tasks 0", "at least 1"),
        ("filter-captions a b --out c --workers 0", "at least 1"),
        ("filter-captions a b --out c --keep -1", "at least 0"),
        ("filter-captions a b --out c --min-score nan", "a finite number"),
        ("recaption a b --out c --max-tokens 0", "at least 1"),
        ("view a --out b --rows -1", "at least 1"),
        (f"view a --out b --rows 1{'0' * 400}", "at most 2147483647"),
        ("train a --out b --shutdown-timeout -1", "above 0"),
        ("eval a --shots -1", "at least 0"),
        ("study lr-law --predict 0", "above 0"),
        ("study lr-law --predict inf", "above 0"),
        ("study mixture --seeds -1", "at least 0"),
        ("study mixture --jobs 0", "at least 1"),
        ("chat a --port 70000", "at most 65535"),
        ("chat a --max-length 0", "at least 1"),
        ("chat a --temperature nan", "at least 0"),
    ],
)
def test_a_number_out_of_range_is_named(
    wrong: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", *wrong.split()])
    with pytest.raises(SystemExit):
        cli.parse_arguments()
    *_, option, number = wrong.split()
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: must be " in line
    assert said in line
    assert line.endswith(f"not {number}")


CHAT = "--terminal does without"
STATE = "--state, which trains nothing, does without"


@pytest.mark.parametrize(
    ("idle", "said"),
    [
        ("chat a --terminal --port 0", f"{CHAT} --port"),
        ("chat a --terminal --host :: --max-length 9", "--host, --max-length"),
        ("chat a --temperature 0", "--temperature is that of --terminal"),
        ("study lr-law --fit a --out b steps=3", "--out, keys to change"),
        ("study lr-law --predict 2e9 --state", "does without --state"),
        ("study lessons --state --seeds 1", f"{STATE} --seeds"),
        ("study lessons --state --on ray", f"{STATE} --on"),
        ("plan pretrain_3b --measure --no-search", "does without --no-search"),
        ("launch pretrain_3b --out b --setup x", "--setup has no meaning"),
        (
            "launch pretrain_3b --out b --print --wait",
            "--print does without --wait",
        ),
        (
            "prepare text a --out b --tokenizer c --validation-by text",
            "--validation-by says nothing without",
        ),
    ],
)
def test_an_option_that_would_say_nothing_is_refused(
    idle: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Else it is believed to be followed: a study with --fit trained for an hour."""
    monkeypatch.setattr("sys.argv", ["mm1", *idle.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_missing_file_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["mm1", "study", "lr-law", "--fit", "no.csv"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "mm1: there is no no.csv\n"


@pytest.mark.parametrize(
    ("command", "out", "said"),
    [
        ("train a", "FILE", "FILE is a file: name another folder"),
        ("eval a", "FILE", "FILE is a file: name another folder"),
        ("study mixture", "FILE/x", "FILE is a file: name another folder"),
        ("tokenizer a", "DIR", "DIR is a folder: name a file"),
        ("tokenizer a", "FILE/t.json", "FILE is a file: name another folder"),
        ("view a", "DIR", "DIR is a folder: name a file"),
        ("plan a", "DIR", "DIR is a folder: name a file"),
    ],
)
def test_a_place_that_is_taken_is_named_before_the_work(
    command: str,
    out: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "FILE").touch()
    (tmp_path / "DIR").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["mm1", *command.split(), "--out", out])
    with pytest.raises(SystemExit) as ended:
        cli.parse_arguments()
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"argument --out: {said}\n")


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("train", "NAME, --out"),
        ("eval", "RUN"),
        ("study", "NAME"),
        ("tokenizer", "PATH, --out"),
        ("prepare", "SOURCE, PATH, --out, --tokenizer"),
    ],
)
def test_overrides_are_never_required(
    command: str,
    required: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", command])
    with pytest.raises(SystemExit):
        cli.parse_arguments()
    assert capsys.readouterr().err.endswith(f"are required: {required}\n")


def test_overrides_of_one_command_are_not_those_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for step in ("1", "2"):
        command = f"mm1 train a --out x --resume steps={step}"
        monkeypatch.setattr("sys.argv", command.split())
        assert cli.parse_arguments().overrides == [f"steps={step}"]


@pytest.mark.parametrize(
    "wrong",
    [
        "train pretrain_small --out x --retry=3",
        "train pretrain_small --out x y",
        "list a=3",
        "study --out x steps=3",
        "prepare text --out x --tokenizer t source.field=body",
    ],
)
def test_what_is_neither_is_named(
    wrong: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", *wrong.split()])
    with pytest.raises(SystemExit):
        cli.parse_arguments()
    assert wrong.split()[-1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file {}"),
        ("{", "{} is not JSON (Expecting property name"),
        (
            '{"class": "mm1.nn.vit:ViT"}',
            "{} is the config of a mm1.nn.vit:ViT, not of a run",
        ),
    ],
)
def test_a_file_that_is_no_run_is_named(
    content: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "my.json"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr("sys.argv", ["mm1", "show", str(path)])
    with pytest.raises(SystemExit):
        cli.main()
    assert message.format(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("show",),
        ("eval",),
        ("report", "--out", "pages"),
        ("chat", "--terminal"),
        ("export", "--out", "again"),
        ("train", "--out", "more"),
    ],
)
def test_an_exported_model_is_told_from_a_run(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exported = Path("runs/red cross")
    exported.mkdir(parents=True)
    (exported / "config.json").write_text('{"model_type": "llama"}')
    command, *options = words
    monkeypatch.setattr("sys.argv", ["mm1", command, str(exported), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert (
        "runs/red cross is no run folder but a model for transformers" in said
    )
    assert "`mm1 import 'runs/red cross' --out DIR`" in said
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
    monkeypatch.setattr("sys.argv", ["mm1", "eval", "runs/rod"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "runs there" not in capsys.readouterr().err


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as from a shell."""
    return forked.run(words, Path.cwd())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trian", "no command 'trian'; did you mean 'train'?"),
        ("zzz", "invalid choice: 'zzz' (choose from 'demo', 'list'"),
    ],
)
def test_a_misspelled_command_leads_to_the_nearest(
    word: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", word, "--out", "x"])
    with pytest.raises(SystemExit):
        cli.parse_arguments()
    assert said in capsys.readouterr().err


def test_the_package_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mm1", "--version"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout[:4]) == (0, "mm1 "), done.stderr


def test_a_wrong_key_leads_to_the_right_one_in_a_shell(tmp_path: Path) -> None:
    done = run(
        "train", "pretrain_small", "batch_size=4", "--out", tmp_path / "run"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    message = "mm1: no key 'batch_size'; did you mean 'loader.batch_size'?\n"
    assert done.stderr == message
    assert not (tmp_path / "run").exists()


def test_diff_says_what_overrides_change_in_a_shell() -> None:
    done = run(
        "diff", "miniature_pretrain", "model.connector=average_pool", "steps=5"
    )
    assert done.returncode == 0
    changed = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert changed.pop("steps").endswith(" -> 5")
    assert changed["model.connector"].endswith(
        " -> 'mm1.nn.connectors.average_pool:AveragePool'"
    )
    assert all(key.startswith("model.connector") for key in changed)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "prepare text a --out b --tokenizer c",
            "mm1: interrupted; the same command goes on from there\n",
        ),
        ("list connectors", "mm1: interrupted\n"),
    ],
)
def test_ctrl_c_says_whether_to_call_it_again(
    command: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fails(KeyboardInterrupt(), command, monkeypatch) == 130
    assert capsys.readouterr().err == said


def fails(
    error: BaseException, command: str, monkeypatch: pytest.MonkeyPatch
) -> object:
    """The exit code of a command whose work raises the error."""

    def fail(*words: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("mm1.catalog.entries", fail)
    monkeypatch.setattr("mm1.prepare.pipeline.prepare", fail)
    monkeypatch.setattr("sys.argv", ["mm1", *command.split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize(
    ("code", "command", "said"),
    [
        (
            errno.ENOSPC,
            "prepare text a --out b --tokenizer c",
            "mm1: b/x: the disk or your quota is full: make room; then the same"
            " command goes on from there\n",
        ),
        (
            errno.EDQUOT,
            "list connectors",
            "mm1: b/x: the disk or your quota is full: make room\n",
        ),
        (
            errno.EACCES,
            "list connectors",
            "mm1: b/x: permission denied: change its permissions, or use another"
            " path\n",
        ),
        (
            errno.EROFS,
            "list connectors",
            "mm1: b/x: read-only file system: use another path\n",
        ),
        (
            errno.EEXIST,
            "list connectors",
            "mm1: b/x: there is a file already: use another path\n",
        ),
        (
            errno.ENOTDIR,
            "list connectors",
            "mm1: b/x: a file is where a folder has to be: use another path\n",
        ),
        (
            errno.EISDIR,
            "list connectors",
            "mm1: b/x: a folder is where a file has to be: use another path\n",
        ),
        (
            errno.EIO,
            "list connectors",
            "mm1: [Errno 5] Input/output error: 'b/x'\n",
        ),
    ],
)
def test_a_file_that_cannot_be_written_has_a_remedy(
    code: int,
    command: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = OSError(code, os.strerror(code), "b/x")
    assert fails(error, command, monkeypatch) == 2
    assert capsys.readouterr().err == said


def test_a_full_disk_has_a_remedy_where_no_file_is_named() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mm1.cli", "list", "studies"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    said = "mm1: the disk or your quota is full: make room\n"
    assert (done.returncode, done.stderr.splitlines(keepends=True)[0]) == (
        2,
        said,
    )


def test_a_quiet_study_is_a_study() -> None:
    done = run("-q", "study", "in_context", "--state")
    assert done.returncode == 0, done.stderr
    assert "in_context" in done.stdout


@pytest.mark.slow
def test_the_list_has_a_line_for_everything_that_has_a_name() -> None:
    done = run("list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    heads = [line for line in lines if not line.startswith("  ")]
    assert [head.split()[0] for head in heads] == list(GROUPS)
    for name in (
        "pretrain_small",
        "mixture",
        "lessons",
        "captions",
        "coco",
        "muon",
    ):
        assert sum(line.split()[0] == name for line in lines) == 1, name
    small = next(line for line in lines if line.split()[0] == "pretrain_small")
    assert small.endswith(
        "[needs data/interleaved, data/captions, data/text, 2 CPU cores]"
    )


def test_a_reader_that_stops_early_is_no_error() -> None:
    show = subprocess.Popen(
        [sys.executable, "-m", "mm1.cli", "show", "miniature_pretrain"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert show.stdout is not None
    assert show.stderr is not None
    show.stdout.close()
    assert show.stderr.read() == b""
    assert show.wait() == 0
    show.stderr.close()


def test_help_answers_without_torch_and_fits_a_terminal() -> None:
    """Torch alone takes over a second to import."""
    parser = cli.command_parser()
    (commands,) = (a for a in parser._actions if hasattr(a, "_name_parser_map"))
    names = list(commands.choices or ())
    assert len(names) == 20
    code = (
        "import sys\nfrom mm1 import cli\nfor name in sys.argv[1:]:\n"
        "    sys.argv = ['mm1', *([name] if name else []), '--help']\n"
        "    try: cli.main()\n    except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'mm1.config') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "", *names],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "80"},
    )
    *pages, modules = done.stdout.splitlines()
    assert modules == "[]"
    assert max(map(len, pages)) <= 80
    assert sum(page.startswith("usage: mm1") for page in pages) == 1 + len(
        names
    )
