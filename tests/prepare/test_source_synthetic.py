"""Synthetic captions replace a share of the originals, joined by URL or key."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import jpeg, write_lines, write_tar

from mm1.config import ConfigError
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources import Source
from mm1.prepare.sources.synthetic_captions import (
    SyntheticCaptions,
    takes_synthetic,
)


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def texts_of(source: Source, path: Path) -> list[str]:
    return [source.document(record.data).text for record in source.read(path)]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """80 samples with a URL each; the last two have none."""
    members = []
    for i in range(80):
        fields = (
            {"url": f"http://x.org/{i}"}
            if i < 78
            else {"url": 3}
            if i == 78
            else []
        )
        members += [
            (f"x/{i:03}.jpg", jpeg()),
            (f"x/{i:03}.txt", b"own"),
            (f"x/{i:03}.json", json.dumps(fields).encode()),
        ]
    return write_tar(tmp_path / "a.tar", members)


def test_a_share_of_samples_takes_the_synthetic_caption(
    samples: Path, tmp_path: Path
) -> None:
    table = [
        {"url": f"http://x.org/{i}", "caption": f"new {i} "} for i in range(60)
    ]
    config = SyntheticCaptions.Config(
        table=str(parquet(tmp_path / "t.parquet", [*table, *table[:1]])),
        share=0.7,
    )
    source = config.build()
    texts = texts_of(source, samples)
    picked = [takes_synthetic(f"http://x.org/{i}", 0.7) for i in range(78)]
    assert texts[:78] == [
        f"<image>new {i}" if picked[i] and i < 60 else "<image>own"
        for i in range(78)
    ]
    assert texts[78:] == ["<image>own"] * 2
    assert source.noted["synthetic captions"] == sum(picked[:60])
    assert source.noted.total() == 80
    assert (
        sum(picked) == 53
    )  # 0.7 of 78 are 54.6, with a standard deviation of 4
    assert all(
        takes_synthetic(f"http://x.org/{i}", 0.9)
        for i in range(78)
        if picked[i]
    )


def test_synthetic_captions_by_key_and_with_faults(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text(
        'key,caption\n000,zero\n001,"  "\n002,two\n003\n'
    )
    config = SyntheticCaptions.Config(
        table=str(tmp_path / "t.csv"), key="key", share=1.0
    )
    assert texts_of(config.build(), samples)[:4] == [
        "<image>zero",
        "<image>own",
        "<image>two",
        "<image>own",
    ]
    assert "1 wrong number of fields" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no column 'url'"):
        list(
            SyntheticCaptions.Config(table=str(tmp_path / "t.csv"), share=1.0)
            .build()
            .read(samples)
        )
    with pytest.raises(ConfigError, match=r"set source\.table=FILE"):
        list(SyntheticCaptions.Config().build().read(samples))
    with pytest.raises(
        ConfigError, match=r"share=1\.5 must be at least 0 and at most"
    ):
        SyntheticCaptions.Config(share=1.5).build()
    (tmp_path / "b.parquet").write_bytes(b"rubbish")
    with pytest.raises(
        ConfigError, match="is not a table with url and caption"
    ):
        list(
            SyntheticCaptions.Config(
                table=str(tmp_path / "b.parquet"), share=1.0
            )
            .build()
            .read(samples)
        )


def test_the_manifest_counts_what_was_joined(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(
        tmp_path / "t.jsonl",
        [{"url": "http://x.org/7", "caption": "seven <end>"}],
    )
    train_tokenizer(["a text"], tmp_path / "t.json", vocab_size=300)
    config = SyntheticCaptions.Config(
        table=str(tmp_path / "t.jsonl"), share=1.0
    )
    preparation = Preparation.Config(source=config)
    manifest = prepare(
        preparation, [samples], tmp_path / "out", tmp_path / "t.json"
    )
    assert manifest["noted"] == {
        "own captions, none in the table": 79,
        "synthetic captions": 1,
    }
    assert (
        "noted: 79 own captions, none in the table, 1 synthetic captions"
        in capsys.readouterr().err
    )
