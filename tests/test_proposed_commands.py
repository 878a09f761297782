"""Every command that a message proposes is one that a shell can take: all of them are
parsed as `mm1` does, and the ones that people are led along are run."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw_files
from test_extras import EXTRAS, FILES

from mm1 import cli

COMMAND = re.compile(
    r"`((?:mm1|pip|torchrun) [^`]+)`|\[bold\](mm1 [^[]+)\["
    r"|^\s*(mm1 [^`\n]+)$",
    re.MULTILINE,
)
COMMANDS = set(cli.command_parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr]


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings of a file but for docstrings; X is what they are filled with."""
    documents = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    parts = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for value in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "X"
                for part in node.values
            )
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documents | parts
        ):
            yield node.value


def proposed(text: str) -> list[str]:
    """Those in backticks and in bold, and lines of their own."""
    return [
        "".join(groups)
        for *marked, line in COMMAND.findall(text)
        if any(groups := (*marked, line))
        and (not line or line.split()[1] in COMMANDS)
    ]


PROPOSED = sorted(
    {
        (name, command)
        for name, path in FILES.items()
        for text in texts(ast.parse(path.read_text()))
        for command in proposed(text)
    }
)


def fault(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is wrong with a command; "..." stands for what its reader has typed before,
    and a bare name is only spoken of."""
    if command.startswith("pip install"):
        named = re.findall(r"mm1\[(\w+)\]", command)
        return "" if set(named) <= {*EXTRAS, "X"} else f"no extra {named}"
    _, ours, rest = command.rpartition("mm1.cli ")
    if command.startswith("torchrun") and not ours:
        return ""
    words = shlex.split(rest.removeprefix("mm1 ").partition(" | ")[0])
    words = ["train" if word == "COMMAND" else word for word in words]
    if ">" in words:
        words = words[: words.index(">")]
    if words[0] not in {*COMMANDS, "-q", "-v"}:
        return f"no command {words[0]}"
    if "..." in words or len(words) == 1:
        return ""
    monkeypatch.setattr(sys, "argv", ["mm1", *words])
    try:
        cli.parse_arguments()
    except SystemExit as ended:
        return "" if ended.code == 0 else "not accepted"
    return ""


@pytest.mark.parametrize(("name", "command"), PROPOSED)
def test_a_proposed_command_is_accepted(
    name: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = fault(command, monkeypatch)
    assert not wrong, f"{name}: {command}: {wrong}\n{capsys.readouterr().err}"


def test_the_messages_are_found() -> None:
    assert len(PROPOSED) > 25
    assert {"mm1.next_steps", "mm1.train.origins"} <= {n for n, _ in PROPOSED}


@pytest.mark.parametrize(
    "wrong",
    [
        "mm1 train --resume",
        "mm1 tokenize a --out b",
        "mm1 prepare text a --out b",
        "pip install 'mm1[nothing]'",
        "torchrun --nproc-per-node 2 -m mm1.cli train pretrain_small",
    ],
)
def test_a_command_that_leads_nowhere_is_found(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fault(wrong, monkeypatch)


def shell(
    command: str, folder: Path, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """A proposed command as a process of its own."""
    words = shlex.split(command)
    assert words[0] == "mm1"
    return subprocess.run(
        [sys.executable, "-m", "mm1.cli", *words[1:]],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


SMALL = (
    "mm1 train language_model_9m model.decoder.depth=1 model.decoder.dim=32"
    " model.decoder.num_heads=2 model.decoder.head_dim=16 model.decoder.hidden_dim=32"
    " loader.batch_size=2 loader.micro_batch_size=2 loader.sequence_length=64"
    " loader.workers=0 precision=fp32 compile=False checkpoint_every=100000"
    " log_every=1 scheduler.warmup_steps=1"
)


@pytest.mark.long
def test_from_nothing_to_a_model_along_the_messages(tmp_path: Path) -> None:
    """No data, then all that the message proposes; stopped, then gone on with; ended,
    then what is proposed at the end."""
    raw = tmp_path / "raw.jsonl"
    raw_files.write_lines(
        raw, [{"text": f"text number {i} of many words"} for i in range(60)]
    )
    train = f"{SMALL} steps=100000 --out runs/lm"
    first = shell(train, tmp_path)
    assert first.returncode == 2
    commands = proposed(first.stderr)
    assert [words.split()[1] for words in commands] == [
        "show",
        "tokenizer",
        "prepare",
    ]
    for command in commands[1:]:
        filled = command.replace("RAW_TEXT", raw.name)
        done = shell(filled, tmp_path)
        assert done.returncode == 0, (filled, done.stderr)
    stopped = subprocess.Popen(
        [sys.executable, "-m", "mm1.cli", *shlex.split(train)[1:]],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert stopped.stderr is not None
    said = []
    for line in stopped.stderr:
        said.append(line)
        if line.startswith("lm  step"):
            break
    assert any("recipe      language_model_9m with" in each for each in said)
    stopped.send_signal(signal.SIGINT)
    _, rest = stopped.communicate(timeout=120)
    assert stopped.returncode == 75, rest
    (resume,) = proposed(rest)
    again = shell("mm1 export runs/lm --out exported", tmp_path)
    assert proposed(again.stderr) == [resume]
    step = re.findall(r"saved at step (\d+) of", rest)[0]
    ended = shell(f"{resume} steps={int(step) + 2}", tmp_path)
    assert ended.returncode == 0, ended.stderr
    for command in (nexts := proposed(cut_comments(ended.stderr))):
        done = shell(command, tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    assert {each.split()[1] for each in nexts} == {"report", "chat", "export"}


def cut_comments(text: str) -> str:
    """Without what stands behind a command, two blanks from it."""
    return re.sub(r"^(  mm1 .*?)  +\S.*$", r"\1", text, flags=re.M)
