"""Tables and the images that they name: rows of every format, files of one folder."""

import bz2
import gzip
import hashlib
import json
import lzma
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_files import chat, jpeg, write_lines

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import Tokenizer, train_tokenizer
from mm1.prepare import tables, verify
from mm1.prepare.image_folder import ImageFolder
from mm1.prepare.pipeline import prepare
from mm1.prepare.sources import (
    MissingImage,
    Record,
    Source,
    Unusable,
    raw_image,
)
from mm1.prepare.sources.caption_tables import CaptionTables
from mm1.prepare.sources.instructions import Instructions
from mm1.prepare.sources.text import Texts
from mm1.prepare.sources.text_files import TextFiles
from mm1.prepare.tokenizer_texts import TokenizerTexts


def zst(path: Path, data: bytes) -> Path:
    with (
        pa.OSFile(str(path), "wb") as file,
        pa.CompressedOutputStream(file, "zstd") as stream,
    ):
        stream.write(data)
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def outcome(source: Source, path: Path) -> list[Document | str]:
    """For each record its document, or the reason why there is none."""
    return [_outcome(source, record) for record in source.read(path)]


def _outcome(source: Source, record: Record) -> Document | str:
    try:
        if isinstance(record.data, Unusable):
            raise record.data
        return verify.check_document(
            source.document(record.data), images_required=source.IMAGES_REQUIRED
        )[0]
    except Unusable as why:
        return why.reason


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with `0.jpg` and `a/1.jpg`; `secret.jpg` is next to it."""
    folder = tmp_path / "pictures"
    (folder / "a").mkdir(parents=True)
    for name in ("0.jpg", "a/1.jpg", "../secret.jpg"):
        (folder / name).write_bytes(jpeg())
    return folder


# --- tables


def test_every_format_of_table_gives_the_same_rows(tmp_path: Path) -> None:
    wanted = [
        {"a": 'one, "two"\nthree', "b": "\u00e9"},
        {"a": "four", "b": "five"},
    ]
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in wanted)
    comma = '\ufeffb,a\n\u00e9,"one, ""two""\nthree"\n\nfive,four\n'.encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.json.gz").write_bytes(
        gzip.compress(lines[:30]) + gzip.compress(lines[30:])
    )
    (tmp_path / "a.csv").write_bytes(comma)
    (tmp_path / "a.tsv.gz").write_bytes(
        gzip.compress(
            comma.replace(b"\xa9,", b"\xa9\t")
            .replace(b"b,", b"b\t")
            .replace(b"five,", b"five\t")
        )
    )
    files = [
        tmp_path / name
        for name in ("a.jsonl", "a.json.gz", "a.csv", "a.tsv.gz")
    ]
    files += [
        zst(tmp_path / "a.jsonl.zst", lines),
        parquet(tmp_path / "a.parquet", wanted),
    ]
    for file in files:
        assert [
            record.data for record in tables.read_table(file, ["a", "b"])
        ] == wanted, file.name
    assert [
        record.key for record in tables.read_table(tmp_path / "a.csv", ["a"])
    ] == [
        "2",
        "5",
    ]


def test_a_truncated_compressed_file_gives_its_complete_lines(
    tmp_path: Path,
) -> None:
    noise = (
        np.random.default_rng(0).bytes(200 * 2000).hex()
    )  # enough for half a file to hold complete blocks
    texts = [noise[200 * i : 200 * (i + 1)] for i in range(2000)]
    lines = b"".join(b'{"text": "%s"}\n\n' % text.encode() for text in texts)
    whole = (
        gzip.compress(lines),
        zst(tmp_path / "whole.zst", lines).read_bytes(),
    )
    for name, data in zip(("a.jsonl.gz", "a.jsonl.zst"), whole, strict=True):
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        *read, last = outcome(Texts.Config().build(), tmp_path / name)
        assert last == "damaged file"
        assert read == [Document((Text(text),)) for text in texts[: len(read)]]
        assert 500 < len(read) < 1000
        (tmp_path / name).write_bytes(b"not compressed")
        assert outcome(Texts.Config().build(), tmp_path / name) == [
            "damaged file"
        ]


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".xz", lzma.compress), (".bz2", bz2.compress)]
)
def test_xz_and_bz2(suffix: str, compress: Any, tmp_path: Path) -> None:
    lines = [b'{"text": "%d"}\n' % (n**9) for n in range(1000)]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(b"".join(lines)))
    assert len(outcome(Texts.Config().build(), path)) == 1000
    assert Texts.find(tmp_path) == [path]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    *read, last = outcome(Texts.Config().build(), path)
    assert last == "damaged file"
    assert all(isinstance(document, Document) for document in read)
    path.write_bytes(b"not compressed")
    assert outcome(Texts.Config().build(), path) == ["damaged file"]


def zstd_frame(data: bytes, window: int | None) -> bytes:
    """A frame of raw blocks, which says that it needs a window of 1 << `window`, or,
    with None, its size as a single segment."""
    head = b"\x28\xb5\x2f\xfd"
    if window is None:
        head += b"\xa0" + len(data).to_bytes(4, "little")
    else:
        head += bytes([0, (window - 10) << 3])
    blocks = [data[i : i + 5_000] for i in range(0, len(data), 5_000)]
    for number, block in enumerate(blocks, 1):
        size = len(block) << 3 | (number == len(blocks))
        head += size.to_bytes(3, "little") + block
    return head


def test_zstd_with_a_long_window(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%d"}\n' % n for n in range(1_000))
    path = tmp_path / "a.jsonl.zst"
    texts = Texts.Config().build()
    for window in (None, 20):
        path.write_bytes(zstd_frame(lines, window))
        assert len(outcome(texts, path)) == 1_000
    frame = zstd_frame(lines, 30)
    path.write_bytes(frame)
    try:
        import zstandard  # noqa: F401
    except ImportError:
        with pytest.raises(
            ConfigError, match=r"a\.jsonl\.zst, with a window of 1,073,741,824"
        ):
            outcome(texts, path)
        return
    assert len(outcome(texts, path)) == 1_000
    path.write_bytes(frame + zstd_frame(lines, 20))
    assert len(outcome(texts, path)) == 2_000
    path.write_bytes(frame[: len(frame) // 2])
    *read, last = outcome(texts, path)
    assert (len(read) > 200, last) == (True, "damaged file")


def test_faults_of_csv_are_counted_row_by_row(
    tmp_path: Path, pictures: Path
) -> None:
    rows = [
        "0.jpg,one",
        "0.jpg",
        "0.jpg,caf\udce9",
        "nowhere.jpg,x",
        "../secret.jpg,x",
        '0.jpg,""',
        "0.jpg,last",
    ]
    (pictures / "a.csv").write_text(
        "image,caption\n" + "\n".join(rows) + '\n0.jpg,"' + "open " * 40_000,
        "utf-8",
        "surrogateescape",
    )
    source = CaptionTables.Config().build()
    first, *reasons, last, cut = outcome(source, pictures / "a.csv")
    assert [d.text for d in (first, last) if isinstance(d, Document)] == [
        "<image>one",
        "<image>last",
    ]
    assert reasons == [
        "wrong number of fields",
        "not UTF-8",
        "missing image file",
        "path out of the image folder",
        "empty caption",
    ]
    assert cut == "broken CSV row"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("damaged", "below"),
    [
        ('"never closed,x', ["a,b"] * 3000),
        ('a,"never closed', ["a,b"] * 3000),
        ('a,"open', ["a,b", 'a,"two"', "a,b", 'a,"x, ""y"""', "a,b"]),
        ('a,"open', ["a,b", '"two",b', 'c,""', "a,b"]),
        ('a,"closed too late', ["a,b", 'c,d5",e', "a,b"]),
    ],
)
def test_an_open_quote_costs_its_own_line(
    end: str, damaged: str, below: list[str], tmp_path: Path
) -> None:
    """The rows below are read, whatever quotes they hold themselves."""
    lines = ["one,two", 'c,"of ""two""', 'lines"', damaged, *below]
    path = tmp_path / "a.csv"
    path.write_bytes((end.join(lines) + end).encode())
    first, cut, *others = tables.read_table(path, ["one", "two"])
    assert first.data == {"one": "c", "two": f'of "two"{end}lines'}
    assert (cut.key, cut.data.reason) == ("4", "broken CSV row")
    assert [record.key for record in others] == [
        str(5 + n) for n in range(len(below))
    ]
    good = [record for record in others if isinstance(record.data, dict)]
    assert len(good) == len([line for line in below if line != 'c,d5",e'])


def test_quotes_inside_a_line_are_read_as_pandas_reads_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.csv").write_text('a,b\n1,"He said "hi" to me"\n2,5"\n')
    assert [
        r.data["b"] for r in tables.read_table(tmp_path / "a.csv", ["b"])
    ] == [
        'He said hi" to me"',
        '5"',
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".csv.gz", ".jsonl.gz"])
def test_a_long_line_is_one_drop_and_is_never_held_whole(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "MAX_LINE", 1 << 16)
    path = tmp_path / f"a{suffix}"
    rows = [b"a,b", b"1,2", b'3,"' + b"x" * (1 << 23) + b'"', b"4,5", b'6,"z']
    if "jsonl" in suffix:
        rows = [b'{"b": 2}', b'{"b": "' + b"x" * (1 << 23) + b'"}', b'{"b": 5}']
        rows.append(b'{"b": 6')
    data = b"\n".join(rows)
    path.write_bytes(gzip.compress(data) if ".gz" in suffix else data)
    tracemalloc.start()
    read = [
        record.data["b"]
        if isinstance(record.data, dict)
        else record.data.reason
        for record in tables.read_table(path, ["b"])
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [str(value) for value in read if "broken" not in str(value)] == [
        "2",
        "line too long",
        "5",
    ]
    assert "broken" in str(read[-1])
    assert peak < 1 << 22


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filepath\ttitle\n")
    parquet(tmp_path / "a.parquet", [{"jpg": b"", "caption": "x"}])
    with pytest.raises(
        ConfigError, match=r"a\.csv has no column 'titel'; did you mean 'title'"
    ):
        list(
            CaptionTables.Config(image="filepath", caption="titel")
            .build()
            .read(tmp_path / "a.csv")
        )
    with pytest.raises(
        ConfigError,
        match=r"a\.parquet has no column 'captions'; did you mean 'caption'",
    ):
        list(
            CaptionTables.Config(image="jpg", caption="captions")
            .build()
            .read(tmp_path / "a.parquet")
        )


def test_captions_of_parquet_with_bytes_structs_and_nulls(
    tmp_path: Path, pictures: Path
) -> None:
    """As img2dataset writes them (an image that was not downloaded is null), and as
    Hugging Face does."""
    parquet(
        tmp_path / "a.parquet",
        [
            {"jpg": jpeg(1), "txt": "one"},
            {"jpg": None, "txt": None},
            {"jpg": None, "txt": "x"},
        ],
    )
    parquet(
        pictures / "b.parquet",
        [{"image": {"bytes": None, "path": "a/1.jpg"}, "text": 5}],
    )
    assert [
        getattr(d, "text", d)
        for d in outcome(
            CaptionTables.Config(image="jpg", caption="txt").build(),
            tmp_path / "a.parquet",
        )
    ] == ["<image>one", "no caption", "no image"]
    assert outcome(
        CaptionTables.Config(caption="text").build(), pictures / "b.parquet"
    ) == ["no caption"]
    (record,) = (
        CaptionTables.Config(caption="text")
        .build()
        .read(pictures / "b.parquet")
    )
    assert record.data["image"] == raw_image(jpeg())


# --- images of a folder


def test_no_path_leads_out_of_the_folder(
    pictures: Path, tmp_path: Path
) -> None:
    folder = ImageFolder(pictures)
    (pictures / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    for name in (
        "0.jpg",
        "./a/../0.jpg",
        "a//1.jpg",
        str(pictures / "a" / "1.jpg"),
        "link.jpg",
    ):
        assert folder.read(name).data == jpeg(), name
    outside = (
        "../secret.jpg",
        "a/../../secret.jpg",
        str(tmp_path / "secret.jpg"),
        "/etc/passwd",
        "..",
        "a/../..",
    )
    assert [why(folder.read(name)) for name in outside] == [
        "path out of the image folder"
    ] * len(outside)
    assert (
        ImageFolder(Path("/")).read(str(tmp_path / "secret.jpg")).data == jpeg()
    )


def why(picture: Any) -> str:
    return picture.why.reason if isinstance(picture, MissingImage) else "read"


def test_what_is_not_an_image_file_has_its_reason(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ImageFolder(pictures)
    assert [
        why(folder.read(value))
        for value in (None, {"bytes": None, "path": None})
    ] == ["no image"] * 2
    assert [why(folder.read(value)) for value in (3, ["0.jpg"])] == [
        "no image path"
    ] * 2
    assert [
        why(folder.read(value)) for value in ("a", "0.jpg/x", "\0", "x" * 5000)
    ] == ["unreadable image file"] * 4
    monkeypatch.setattr(verify, "MAX_BYTES", 10)
    assert why(folder.read("0.jpg")) == "file too large"


def test_images_of_urls_are_looked_up_by_the_given_rule(
    pictures: Path, tmp_path: Path
) -> None:
    url = "https://x.org/p/0.jpg?w=9"
    (pictures / f"{hashlib.sha256(url.encode()).hexdigest()}.png").write_bytes(
        jpeg(1)
    )
    (pictures / "00041").mkdir()
    (pictures / "00041" / "000410007.jpg").write_bytes(jpeg(2))
    parquet(
        pictures / "00041.parquet",
        [
            {"url": url, "key": "000410007"},
            {"url": "http://x.org/gone", "key": "000410008"},
        ],
    )
    (tmp_path / "a.csv").write_text(
        f"url,path\n{url},a/1.jpg\nhttp://x.org/evil,../secret.jpg\n"
    )
    assert ImageFolder(pictures).read(url) == raw_image(url, url)
    for rule, data in (
        ("sha256", jpeg(1)),
        ("basename", jpeg(0)),
        (str(pictures), jpeg(2)),
        (str(tmp_path / "a.csv"), jpeg(0)),
    ):
        folder = ImageFolder(pictures, rule)
        assert folder.read(url) == raw_image(data, url), rule
        assert why(folder.read("http://[x")) == (
            "broken image address"
            if rule == "basename"
            else "missing image file"
        )
        assert (
            why(folder.read("http://x.org/gone"))
            == why(folder.read("http://x.org/"))
            == "missing image file"
        )
    assert (
        why(
            ImageFolder(pictures, str(tmp_path / "a.csv")).read(
                "http://x.org/evil"
            )
        )
        == "path out of the image folder"
    )
    with pytest.raises(
        ConfigError, match="urls must be sha256, basename or a table"
    ):
        ImageFolder(pictures, "sha265")


# --- text and instructions in other files


def test_text_of_parquet_and_of_plain_folders(tmp_path: Path) -> None:
    parquet(
        tmp_path / "a.parquet",
        [{"text": "one", "id": 1}, {"text": None, "id": 2}],
    )
    assert outcome(Texts.Config().build(), tmp_path / "a.parquet") == [
        Document((Text("one"),)),
        "no text",
    ]
    assert list(TokenizerTexts([tmp_path])) == ["one"]
    folder = tmp_path / "essays" / "2019"
    folder.mkdir(parents=True)
    (folder / "empty").mkdir()
    for name, content in (
        ("b.md", b"# two\n"),
        ("a.txt", b"\xef\xbb\xbfone"),
        ("c.txt", b"caf\xe9"),
        ("d.txt", b" "),
        ("e.py", b""),
    ):
        (folder / name).write_bytes(content)
    source = TextFiles.Config().build()
    assert source.find(tmp_path) == [tmp_path]
    assert [record.key for record in source.read(tmp_path)] == [
        f"essays/2019/{name}" for name in ("a.txt", "b.md", "c.txt", "d.txt")
    ]
    assert outcome(source, tmp_path) == [
        Document((Text("one"),)),
        Document((Text("# two\n"),)),
        "not UTF-8",
        "empty text",
    ]
    assert outcome(source, folder / "b.md") == [Document((Text("# two\n"),))]
    with pytest.raises(
        FileNotFoundError,
        match=r"has no file for this source \(\*\.txt, \*\.md\)",
    ):
        TextFiles.find(tmp_path / "essays" / "2019" / "empty")


def test_conversations_of_parquet_and_compressed_lines(tmp_path: Path) -> None:
    record = chat("<image>\nWhat is it?", "A cat.")
    parquet(
        tmp_path / "a.parquet",
        [record | {"image": {"bytes": jpeg(), "path": "x"}}],
    )
    turns = [
        {"role": "user", "content": "<image>\nWhat is it?"},
        {"role": "assistant", "content": "A cat."},
    ]
    parquet(
        tmp_path / "b.parquet",
        [{"images": [jpeg()], "messages": turns, "id": 1}],
    )
    (tmp_path / "c.jpg").write_bytes(jpeg())
    (tmp_path / "c.jsonl.gz").write_bytes(
        gzip.compress(json.dumps(record | {"image": "c.jpg"}).encode())
    )
    write_lines(tmp_path / "d.jsonl", [record | {"image": "../c.jpg"}, 3])
    files = [
        tmp_path / name for name in ("a.parquet", "b.parquet", "c.jsonl.gz")
    ]
    first, second, third = (
        outcome(Instructions.Config().build(), file) for file in files
    )
    assert first == second == third
    assert first[0].text == "<image>What is it?\nA cat."  # type: ignore[union-attr]
    assert outcome(Instructions.Config().build(), tmp_path / "d.jsonl") == [
        "path out of the image folder",
        "no JSON object",
    ]
    parquet(tmp_path / "e.parquet", [{"message": []}])
    with pytest.raises(
        ConfigError, match="no column 'messages'; did you mean 'message'"
    ):
        list(Instructions.Config().build().read(tmp_path / "e.parquet"))


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_special_tokens_in_a_text_are_text(kind: Any, tmp_path: Path) -> None:
    """A word-level vocabulary holds `<end>` as a word like any other."""
    spelled = "a <image> <end><pad> text <end>"
    train_tokenizer([spelled], tmp_path / "t.json", vocab_size=300, kind=kind)
    tokenizer = Tokenizer.Config(path=str(tmp_path / "t.json")).build()
    control = {tokenizer.pad, tokenizer.end, tokenizer.image}
    write_lines(
        tmp_path / "a.jsonl",
        [{"text": spelled}, {"text": "<end>"}, {"text": "a text"}],
    )
    manifest = prepare(
        "text", [tmp_path / "a.jsonl"], tmp_path / "out", tmp_path / "t.json"
    )
    assert manifest["documents"] == 3
    shards = Shards(tmp_path / "out")
    for i in range(3):
        assert all(
            control.isdisjoint(part.tokens or ())
            for part in shards.document(i).parts
            if isinstance(part, Text)
        )
    assert [
        tokenizer.encode(text) for text in (spelled, "a")
    ] == tokenizer.encode_batch([spelled, "a"])
