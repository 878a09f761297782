"""The commands of the README, as a stranger types them, on small raw files; and what
they say to mistakes."""

import json
import sys
from pathlib import Path

import pytest
import raw_files

from mm1 import cli, dist

SMALL = [
    "model.encoder.image_size=8",
    "model.encoder.patch_size=4",
    "model.encoder.depth=1",
    "model.encoder.dim=16",
    "model.encoder.num_heads=2",
    "model.connector=average_pool",
    "model.connector.num_tokens=4",
    "model.decoder.depth=1",
    "model.decoder.dim=32",
    "model.decoder.num_heads=2",
    "model.decoder.hidden_dim=48",
    "loader.sequence_length=128",
    "loader.packing_window=8",
    "loader.max_images=8",
    "steps=6",
    "log_every=2",
    "checkpoint_every=3",
]


def mm1(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["mm1", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for name in ("captions", "pages", "text"):
        (folder / name).mkdir()
    raw_files.write_tar(folder / "captions" / "a.tar", raw_files.pairs(40))
    pages = [
        {"images": [None, raw_files.jpeg(i)], "texts": [f"this is page {i}", None]}
        for i in range(30)
    ]
    raw_files.write_pages(folder / "pages" / "a.parquet", pages)
    raw_files.write_lines(
        folder / "text" / "a.jsonl",
        [{"text": f"line {i} of a text about pictures"} for i in range(90)],
    )
    return folder


def test_from_raw_files_to_a_trained_run_and_its_pages(
    raw: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = ("--tokenizer", "data/tokenizer.json", "--validation", "0.1")
    assert (
        mm1(
            monkeypatch,
            "tokenizer",
            raw / "text",
            "--out",
            "data/tokenizer.json",
            "--vocab-size",
            300,
        )
        == 0
    )
    assert (
        mm1(
            monkeypatch,
            "prepare",
            "text",
            raw / "text",
            "--out",
            "data/text",
            *tokenizer,
        )
        == 0
    )
    assert (
        mm1(
            monkeypatch,
            "prepare",
            "captions",
            raw / "captions",
            "--out",
            "data/captions",
            *tokenizer,
        )
        == 0
    )
    assert (
        mm1(
            monkeypatch,
            "prepare",
            "interleaved",
            raw / "pages",
            "--out",
            "data/interleaved",
            *tokenizer,
        )
        == 0
    )
    assert mm1(monkeypatch, "view", "pretrain_small", *SMALL, "--out", "rows.html") == 0
    assert "picture number" in Path("rows.html").read_text()
    wrong = (*SMALL, "loader.sources.more=data/nowhere")
    assert (
        mm1(monkeypatch, "train", "pretrain_small", *wrong, "--out", "runs/first") == 2
    )
    assert Path(
        "runs/first/config.json"
    ).exists()  # and no checkpoint: nothing of the wrong command is kept
    assert (
        mm1(
            monkeypatch,
            "train",
            "pretrain_small",
            *SMALL,
            "--out",
            "runs/first",
            "--resume",
        )
        == 0
    )
    assert json.loads(Path("runs/first/summary.json").read_text())["finished"]
    assert (
        mm1(monkeypatch, "view", "runs/first", "--out", "rows.html", "--rows", 2) == 0
    )
    capsys.readouterr()
    assert mm1(monkeypatch, "diff", "pretrain_small", "runs/first") == 0
    assert "model.decoder.dim: 256 -> 32" in capsys.readouterr().out

    assert (
        mm1(monkeypatch, "train", "pretrain_small", *SMALL, "--out", "runs/first") == 2
    )
    assert "--resume" in capsys.readouterr().err
    assert (
        mm1(monkeypatch, "train", "pretrain_small", "--out", "runs/first", "--resume")
        == 0
    )
    assert (
        "runs/first goes on with its own config; unlike pretrain_small: "
        in capsys.readouterr().err
    )
    config = Path("runs/first/config.json").read_text()
    assert (
        mm1(
            monkeypatch,
            "train",
            "pretrain_small",
            "model.decoder.dim=64",
            "--out",
            "runs/first",
            "--resume",
        )
        == 2
    )
    assert (
        "cannot go on with model.decoder.dim 64: its checkpoints are of 32"
        in capsys.readouterr().err
    )
    assert Path("runs/first/config.json").read_text() == config
    assert mm1(monkeypatch, "eval", "runs/first") == 2
    assert "has no benchmarks" in capsys.readouterr().err
    dist.stop()


def test_recipes_are_listed_and_spelled_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mm1(monkeypatch, "list") == 0
    assert "pretrain_3b" in capsys.readouterr().out
    assert mm1(monkeypatch, "show", "pretrain_3b", "steps=7") == 0
    assert "steps = 7\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "pretrain_smal"], "did you mean 'pretrain_small'"),
        (
            ["show", "pretrain_small", "loader.row_lenth=3"],
            "did you mean 'loader.sequence_length'",
        ),
        (
            ["train", "pretrain_small", "batch_size=4", "--out", "run"],
            "no key 'batch_size'; did you mean 'loader.batch_size'?",
        ),
        (
            ["show", "pretrain_small", "model.connector=averagepool"],
            "model.connector: no Connector 'averagepool'; did you mean 'average_pool'",
        ),
        (
            ["prepare", "caption", "x", "--out", "y", "--tokenizer", "z"],
            "did you mean 'captions'",
        ),
        (["train", "pretrain_small", "--out", "run"], "data/interleaved"),
        (["eval", "nowhere"], "no recipe 'nowhere'"),
        (["view", "clip_small", "--out", "x.html"], "does not pack rows"),
    ],
)
def test_mistakes_are_one_line_that_names_the_remedy(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mm1(monkeypatch, *words) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.startswith("mm1: ")
    assert "Traceback" not in message
