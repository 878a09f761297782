"""A progress bar: plain lines now and then without a terminal, a bar on one."""

import sys

import pytest
import torch

from mm1 import progress
from mm1.progress import ProgressBar, track_tensors


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its only item."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("questions", 220, completed=20) as bar:
        for _ in range(10):
            clock[0] += 5
            bar.advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "questions  50/220, 2/s, 0:01:25 left",
        "questions  80/220, 2/s, 0:01:10 left",
        "questions  110/220, 2/s, 0:00:55 left",
    ]


def test_details_take_the_place_of_the_count_and_may_be_shown_at_once(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("run", 8) as bar:
        bar.update(0, "nothing yet")
        clock[0] += 3600
        bar.update(4, "loss 1.5", at_once=True)
        bar.update(5, "too early")
    assert capsys.readouterr().err == "run  loss 1.5, 1:00:00 left\n"


def test_a_terminal_gets_a_bar(
    clock: list[float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with ProgressBar("questions", 10, transient=False) as bar:
        clock[0] += 1
        bar.update(5)
    shown = capsys.readouterr().err
    assert "━" in shown
    assert "5/10, 5/s, 0:00:01 left" in shown


def test_other_ranks_show_nothing(
    clock: list[float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress.dist, "rank", lambda: 1)
    with ProgressBar("questions", 10) as bar:
        bar.update(5, at_once=True)
    assert capsys.readouterr().err == ""


def test_tensors_pass_through_and_their_bytes_are_counted(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {name: torch.ones(250) for name in ("a", "b", "c")}
    passed = {}
    for name, tensor in track_tensors("export", tensors.items(), 3000):
        clock[0] += 10
        passed[name] = tensor
    assert passed == tensors
    assert capsys.readouterr().err.splitlines() == [
        "export  2.0 kB/3.0 kB, 100 bytes/s, 0:00:10 left"
    ]
