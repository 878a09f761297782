"""What `mm1 tokenizer` learns from: whatever prepare reads, and never nothing."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from forked import shell
from raw_files import chat, jpeg, pairs, write_lines, write_pages, write_tar

from mm1.config import ConfigError
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare.sources.hub import Hub
from mm1.prepare.sources.instructions import Instructions
from mm1.prepare.sources.text_files import TextFiles
from mm1.prepare.tokenizer_texts import TokenizerTexts


def learnt(*paths: Path, **options: Any) -> list[str]:
    return list(TokenizerTexts(paths, **options))


def test_each_file_is_read_by_its_name_and_fields(tmp_path: Path) -> None:
    def lines(name: str, record: Any) -> None:
        write_lines(tmp_path / name, [record])

    (tmp_path / "a.txt").write_text("line 1\nline 2")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"zipped"))
    lines("c.jsonl", {"text": "text of lines", "caption": "no"})
    (tmp_path / "d.csv").write_text('id,caption\n1,"a, caption"\n')
    lines("e.jsonl", chat("Who?", "Me.", image="nowhere.jpg"))
    lines("f.jsonl", {"question": "What?", "answer": "That."})
    (tmp_path / "g.json").write_text(json.dumps([{"text": "of a list"}]))
    lines("h.jsonl", {"html": "<p>a page <img src=x.jpg> with an image"})
    lines(
        "i.jsonl",
        {
            "text_list": ["of MMC4"],
            "image_info": [{"image_name": "x.jpg", "matched_text_index": 0}],
        },
    )
    write_pages(
        tmp_path / "j.parquet",
        [{"images": [jpeg(), None], "texts": [None, "of OBELICS"]}],
    )
    turns = {"texts": [{"user": "Which?", "assistant": "This."}], "images": []}
    pq.write_table(pa.Table.from_pylist([turns]), tmp_path / "k.parquet")
    write_tar(tmp_path / "l.tar", pairs(1))
    (tmp_path / "m.html").write_text("<h1>Heading")
    assert learnt(tmp_path) == [
        *("line 1\n", "line 2", "zipped", "text of lines", "a, caption"),
        *("Who?\n", "Me.", "What?\n", "That.", "of a list"),
        *("a page", "with an image", "of MMC4", "of OBELICS"),
        *("Which?\n", "This.", "picture number 0", "Heading"),
    ]


def test_what_has_no_text_is_counted(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "x"}, b"{", {"text": ""}, 3])
    write_lines(tmp_path / "b.jsonl", [{"content": "x"}])
    (tmp_path / "c.jpg").write_bytes(b"")
    (tmp_path / "deep").mkdir()
    texts = TokenizerTexts([tmp_path])
    assert list(texts) == ["x"]
    assert texts.num_texts == 1
    assert texts.summary() == (
        "1 file with the fields content (b.jsonl), 1 .jpg file (c.jpg), 1 folder"
        " (deep), 1 records dropped (broken JSON line), 1 records dropped (empty"
        " text), 1 records dropped (no JSON object)"
    )


def test_a_field_or_a_source_may_be_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"raw": "x", "text": "no"}])
    (tmp_path / "a.csv").write_text("raw,text\ny,no\n")
    pq.write_table(pa.table({"raw": ["z"]}), tmp_path / "a.parquet")
    fields = b'{"raw": "w"}'
    write_tar(tmp_path / "a.tar", [("0.jpg", jpeg()), ("0.json", fields)])
    assert sorted(learnt(tmp_path, field="raw")) == ["w", "x", "y", "z"]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.txt").write_text("deep down")
    assert learnt(tmp_path, source=TextFiles.Config().build()) == ["deep down"]
    source = Hub.Config(image="").build()
    assert learnt(tmp_path / "deep", source=source) == ["deep down"]
    talk = [{"role": "user", "content": "q"}, {"role": "gpt", "content": "a"}]
    write_lines(tmp_path / "deep" / "b.jsonl", [{"talk": talk}])
    source = Instructions.Config(messages="talk").build()
    assert learnt(tmp_path / "deep", source=source) == ["q\n", "a"]


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("a.jsonl", b'{"raw_content": "x", "n": 1}\n', "fields raw_content, n"),
        ("a.csv", b"raw_content,n\nx,1\n", "fields raw_content, n"),
        ("a.jsonl", b'{"text": ""}\n' * 9, r"9 records dropped \(empty text\)"),
        ("a.jsonl", b"{}\n", r"1 records dropped \(\w"),
        ("a.tar", b"not a tar", r"1 records dropped \(not a tar file\)"),
        ("a/b.txt", b"deep", r"1 folder \(a\)"),
        ("a.bin", b"x", r"1 \.bin file"),
    ],
)
def test_nothing_to_learn_is_an_error_that_says_what_was_seen(
    name: str, content: bytes, seen: str, tmp_path: Path
) -> None:
    folder = tmp_path / "raw"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(content)
    out = tmp_path / "out" / "tokenizer.json"
    with pytest.raises(ConfigError, match=rf"no text .*{seen}.*--field"):
        train_tokenizer(TokenizerTexts([folder]), out, vocab_size=300)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.jsonl", b""),
        ("a.csv", b""),
        ("a.tar", b"\0" * 10240),
    ],
)
def test_an_empty_file_is_named(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    said = rf"1 file without records \({name}\)\. Name files that have texts$"
    with pytest.raises(ConfigError, match=said):
        list(TokenizerTexts([tmp_path / name]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"caf\xe9\nna\xefve\n"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n{"text": "na\xefve"}\n'),
    ],
)
def test_text_that_is_not_utf8_is_counted(
    name: str, content: bytes, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    dropped = "2 records dropped (not UTF-8)"
    said = re.escape(f"{dropped}. Convert the files to UTF-8, as `iconv")
    with pytest.raises(ConfigError, match=said):
        list(TokenizerTexts([tmp_path / name]))
    (tmp_path / "b.txt").write_bytes("caf\u00e9\n".encode())
    texts = TokenizerTexts([tmp_path])
    assert list(texts) == ["caf\u00e9\n"]
    assert texts.summary() == dropped


def test_a_table_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"caf\xe9,n\x01\nx,1\n")
    said = re.escape("1 file that is not UTF-8 (a.csv). Convert the files")
    with pytest.raises(ConfigError, match=said):
        list(TokenizerTexts([tmp_path / "a.csv"]))


def test_a_character_between_two_pieces_is_kept(tmp_path: Path) -> None:
    text = "x" * ((1 << 20) - 1) + "\u00e9" * 3
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert "".join(learnt(tmp_path / "a.txt")) == text


def test_a_text_without_line_breaks_is_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * (1 << 20) + b"y")
    assert [len(text) for text in learnt(tmp_path / "a.txt")] == [1 << 20, 1]


def test_the_command_takes_options_of_a_source(tmp_path: Path) -> None:
    talk = [
        {"role": "user", "content": "aaaa"},
        {"role": "gpt", "content": "bb"},
    ]
    write_lines(tmp_path / "a.jsonl", [{"talk": talk}])
    run = "mm1 tokenizer a.jsonl --out t.json --vocab-size 260"
    done = shell(f"{run} --source instructions source.messages=talk", tmp_path)
    assert done.stdout.startswith("t.json: 260 tokens, fingerprint ")
    assert done.stdout.endswith("from 2 texts\n")
    failed = shell(f"{run} source.messages=talk", tmp_path)
    assert failed.returncode == 2
    assert "source.messages=talk is an option of a source" in failed.stderr
