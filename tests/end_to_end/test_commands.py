"""The commands of the README, as a stranger types them, on small raw files; and what
they say to mistakes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import raw_files

from mm1 import dist

SMALL = """
    model.encoder.image_size=8 model.encoder.patch_size=4 model.encoder.depth=1
    model.encoder.dim=16 model.encoder.num_heads=2
    model.connector=average_pool model.connector.num_tokens=4
    model.decoder.depth=1 model.decoder.dim=32 model.decoder.num_heads=2
    model.decoder.hidden_dim=48
    loader.sequence_length=128 loader.packing_window=8 loader.max_images=8
    steps=6 log_every=2 checkpoint_every=3
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for name in ("captions", "pages", "text"):
        (folder / name).mkdir()
    raw_files.write_tar(folder / "captions" / "a.tar", raw_files.pairs(40))
    pages = [
        {
            "images": [None, raw_files.jpeg(i)],
            "texts": [f"this is page {i}", None],
        }
        for i in range(30)
    ]
    raw_files.write_pages(folder / "pages" / "a.parquet", pages)
    raw_files.write_lines(
        folder / "text" / "a.jsonl",
        [{"text": f"line {i} of a text about pictures"} for i in range(90)],
    )
    return folder


def test_from_raw_files_to_a_trained_run_and_its_pages(
    raw: Path, mm1: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = "--out data/tokenizer.json --vocab-size 300"
    assert mm1(f"tokenizer {raw}/text {tokenizer}") == 0
    how = "--tokenizer data/tokenizer.json --validation 0.1"
    assert mm1(f"prepare text {raw}/text --out data/text {how}") == 0
    assert (
        mm1(f"prepare captions {raw}/captions --out data/captions {how}") == 0
    )
    assert (
        mm1(f"prepare interleaved {raw}/pages --out data/interleaved {how}")
        == 0
    )
    assert mm1(f"view pretrain_small {SMALL} --out rows.html") == 0
    assert "picture number" in Path("rows.html").read_text()

    wrong = "loader.sources.more=data/nowhere"
    assert mm1(f"train pretrain_small {SMALL} {wrong} --out runs/first") == 2
    assert not Path("runs").exists()
    assert mm1(f"train pretrain_small {SMALL} --out runs/first") == 0
    assert json.loads(Path("runs/first/summary.json").read_text())["finished"]
    assert mm1("view runs/first --out rows.html --rows 2") == 0
    capsys.readouterr()
    assert mm1("diff pretrain_small runs/first") == 0
    assert "model.decoder.dim: 256 -> 32" in capsys.readouterr().out

    assert mm1(f"train pretrain_small {SMALL} --out runs/first") == 2
    assert "--resume" in capsys.readouterr().err
    assert mm1("train pretrain_small --out runs/first --resume") == 0
    kept = "runs/first resumes with its own config, unlike pretrain_small: "
    assert kept in capsys.readouterr().err
    config = Path("runs/first/config.json").read_text()
    other = "model.decoder.dim=64 --out runs/first --resume"
    assert mm1(f"train pretrain_small {other}") == 2
    error = capsys.readouterr().err
    assert "cannot resume with model.decoder.dim 64" in error
    assert "was 32: its checkpoints hold that" in error
    assert Path("runs/first/config.json").read_text() == config
    assert mm1("eval runs/first") == 2
    assert "has no benchmarks" in capsys.readouterr().err
    dist.stop()


def test_recipes_are_listed_and_spelled_out(
    mm1: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert mm1("list connectors") == 0
    assert "average_pool" in capsys.readouterr().out
    assert mm1("show pretrain_3b steps=7") == 0
    assert "steps = 7\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("show pretrain_smal", "did you mean 'pretrain_small'"),
        (
            "show pretrain_small loader.row_lenth=3",
            "did you mean 'loader.sequence_length'",
        ),
        (
            "train pretrain_small batch_size=4 --out run",
            "no key 'batch_size'; did you mean 'loader.batch_size'?",
        ),
        (
            "show pretrain_small model.connector=averagepool",
            "model.connector: no Connector 'averagepool'; did you mean 'average_pool'",
        ),
        ("prepare caption x --out y --tokenizer z", "did you mean 'captions'"),
        (
            "prepare text x --out y --tokenizer z source.feild=body",
            "no key 'source.feild'; did you mean 'source.field'?",
        ),
        (
            "prepare text x --out y --tokenizer z text.min_words=3",
            "no key 'text.min_words'; did you mean 'filters.text.min_words'?",
        ),
        (
            "prepare text x --out y --tokenizer z filters=webtext",
            "no set of filters 'webtext'; did you mean 'web_text'?",
        ),
        ("diff pretrain_small", "diff takes two configs, or one and overrides"),
        ("study mixtur --out x", "did you mean 'mixture'"),
        ("eval nowhere", "nowhere is no run folder: there is no such folder"),
        *(
            (
                f"{command} {__file__}",
                "test_commands.py is no run folder: it is a file",
            )
            for command in (
                "eval",
                "report",
                "chat --terminal",
                "export --out x",
            )
        ),
        ("view clip_small --out x.html", "does not pack rows"),
    ],
)
def test_mistakes_are_one_line_that_names_the_remedy(
    command: str,
    said: str,
    mm1: Callable[[str], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert mm1(command) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.startswith("mm1: ")
    assert message.count("\n") == 1
