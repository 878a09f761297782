"""A conversation in a terminal, which needs no server's packages."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import mm1
from mm1.chat.server import serve
from mm1.chat.terminal import HELP, Terminal
from mm1.cli import main
from mm1.config import ConfigError, UserError
from mm1.infer.sampling import Sampling
from mm1.loaded_run import load_runs

WITHOUT = """
import sys
for name in ("fastapi", "starlette", "uvicorn", "pydantic"):
    sys.modules[name] = None
from mm1.cli import main
main()
"""


def test_lines_are_answered_in_turn(tmp_path: Path) -> None:
    m = mm1.load(tiny.write_run(tmp_path / "run"))
    picture = tiny.picture(3)
    path = tmp_path / "a picture.png"
    path.write_bytes(picture.data)
    said: list[str] = []
    terminal = Terminal(m, max_tokens=6, sampling=Sampling(), write=said.append)

    def after(*lines: str) -> str:
        said.clear()
        terminal.talk(lines)
        return "".join(said)

    first = after(f"/image '{path}'", "red cat")
    assert first.strip() == m.ask("red cat", picture, max_tokens=6)
    assert len(terminal.messages) == 2
    assert after("/new", f"/image '{path}'", "two", "/image missing.png") != ""
    assert "missing.png" in said[-1]
    shown = after("/new", f"/image '{path}'", "/answer sun", "dog")
    assert [m.text for m in terminal.messages[:2]] == ["", "sun"]
    shots = [(picture, "", "sun")]
    assert shown.strip() == m.ask("dog", shots=shots, max_tokens=6)
    assert after("/help") == f"{HELP}\n"
    assert after("", "/quit", "red") == ""
    shown = after("/new", "red \udce9", "/answer \udce9", "red cat")
    assert shown.count("not valid Unicode") == 2
    assert [m.text for m in terminal.messages[:1]] == ["red cat"]
    assert shown.endswith(f"{terminal.messages[1].text}\n")


def test_a_text_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    m = mm1.load(tiny.write_run(tmp_path / "run"))
    with pytest.raises(UserError, match="not valid Unicode"):
        m.ask("red \ud800", max_tokens=1)
    with pytest.raises(UserError, match="not valid Unicode"):
        m.trained.renderer.tokenizer.encode_batch(["red", "\ud800"])


@pytest.mark.parametrize("line", [b"red \xe9\n", b"/image \xe9.png\n"])
def test_what_is_not_utf_8_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    run = tiny.write_run(tmp_path / "run")
    typed = io.TextIOWrapper(io.BytesIO(line + b"/help\n"), encoding="utf-8")
    shown = io.BytesIO()
    written = io.TextIOWrapper(shown, encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    monkeypatch.setattr("sys.stdout", written)
    monkeypatch.setattr("sys.argv", ["mm1", "chat", str(run), "--terminal"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    first, said, last = (
        shown.getvalue()
        .decode()
        .partition(
            "not valid Unicode" if line.startswith(b"red") else "\\udce9.png"
        )
    )
    assert first.startswith(HELP)
    assert said
    assert last.endswith(f"{HELP}\n")


@pytest.mark.long
def test_it_needs_no_package_of_the_server(tmp_path: Path) -> None:
    run = tiny.write_run(tmp_path / "run")
    talk = subprocess.run(
        [sys.executable, "-c", WITHOUT, "chat", str(run), "--terminal"],
        input="red cat\n",
        capture_output=True,
        text=True,
    )
    assert talk.returncode == 0, talk.stderr
    wanted = mm1.load(run).ask("red cat", max_tokens=256)
    assert talk.stdout.removeprefix(HELP).strip() == wanted


def test_without_the_packages_the_page_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install 'mm1\[chat\]'"):
        serve([Path("run")], host="127.0.0.1", port=0, max_length=100)


def test_runs_have_the_names_of_their_folders(tmp_path: Path) -> None:
    one = tiny.write_run(tmp_path / "one/run")
    two = tiny.write_run(tmp_path / "two/run")
    other = tiny.write_run(tmp_path / "other")
    assert list(load_runs([one, other])) == ["run", "other"]
    assert list(load_runs([one, two])) == [str(one), str(two)]
    with pytest.raises(ConfigError, match="is given twice"):
        load_runs([one, one])
