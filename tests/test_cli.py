"""What the command line takes, without running it."""

import pytest

from mm1 import cli


def test_overrides_may_stand_before_and_after_options(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "mm1 train pretrain_small steps=3 --out x --resume feed.rows=2 optimizer.peak_lr=-1"
    monkeypatch.setattr("sys.argv", command.split())
    arguments = cli._arguments()
    assert arguments.overrides == ["steps=3", "feed.rows=2", "optimizer.peak_lr=-1"]
    assert (str(arguments.out), arguments.resume) == ("x", True)


@pytest.mark.parametrize(
    "wrong", ["train pretrain_small --out x --retry=3", "train pretrain_small --out x y", "list a=3"]
)
def test_what_is_neither_is_named(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", *wrong.split()])
    with pytest.raises(SystemExit):
        cli._arguments()
    assert wrong.split()[-1] in capsys.readouterr().err
