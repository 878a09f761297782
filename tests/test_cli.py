"""What the command line takes, without running it."""

from pathlib import Path

import pytest

from mm1 import cli


def test_overrides_may_stand_before_and_after_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (
        "mm1 train pretrain_small steps=3 --out x --resume loader.batch_size=2"
        " optimizer.peak_lr=-1"
    )
    monkeypatch.setattr("sys.argv", command.split())
    arguments = cli._arguments()
    assert arguments.overrides == [
        "steps=3",
        "loader.batch_size=2",
        "optimizer.peak_lr=-1",
    ]
    assert (str(arguments.out), arguments.resume) == ("x", True)


@pytest.mark.parametrize(
    "wrong",
    [
        "train pretrain_small --out x --retry=3",
        "train pretrain_small --out x y",
        "list a=3",
    ],
)
def test_what_is_neither_is_named(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", *wrong.split()])
    with pytest.raises(SystemExit):
        cli._arguments()
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
