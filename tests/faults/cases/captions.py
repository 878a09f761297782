"""Captions in a tar or a table, among good ones."""

from pathlib import Path

import pytest
from raw_files import jpeg, pairs, write_tar

from cases import Case, prepared, refused, tokenizer
from mm1.data.document import Text
from mm1.data.prepared.shards import Shards
from mm1.data.tokenizer import Tokenizer
from mm1.prepare import verify

PICTURE = ("bad.jpg", jpeg())


def in_tar(*members: tuple[str, bytes]) -> Case:
    return lambda folder, _: prepared(
        "captions", write_tar(folder / "a.tar", [*pairs(1), *members])
    )


def of_csv(*rows: str, header: str = "image,caption") -> Case:
    def case(folder: Path, _: pytest.MonkeyPatch) -> str:
        for name in ("0.jpg", "../secret.jpg"):
            (folder / name).write_bytes(jpeg())
        text = "\n".join([header, "0.jpg,good", *rows, "0.jpg,good"])
        (folder / "a.csv").write_text(text, "utf-8", "surrogateescape")
        return prepared("caption_tables", folder / "a.csv")

    return case


def no_column(folder: Path, patch: pytest.MonkeyPatch) -> str:
    return refused(
        lambda: of_csv(header="image,captions")(folder, patch), folder
    )


def long_row(folder: Path, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(verify, "MAX_LINE", 100)
    return of_csv(f"0.jpg,{'x' * 1000}")(folder, patch)


def control_tokens(folder: Path, patch: pytest.MonkeyPatch) -> str:
    outcome = in_tar(PICTURE, ("bad.txt", b"<image> <end><pad> <end>"))(
        folder, patch
    )
    vocabulary = Tokenizer.Config(path=str(tokenizer(folder))).build()
    special = {vocabulary.pad, vocabulary.end, vocabulary.image}
    texts = [
        part
        for part in Shards(folder / "out").document(1).parts
        if isinstance(part, Text)
    ]
    assert all(special.isdisjoint(part.tokens or ()) for part in texts)
    return f"{outcome}; they are plain text, not control tokens"


CASES: dict[str, Case] = {
    "empty": in_tar(PICTURE, ("bad.txt", b"")),
    "only white space": in_tar(PICTURE, ("bad.txt", "\u3000 \n".encode())),
    "Latin-1, not UTF-8": in_tar(
        PICTURE, ("bad.txt", "caf\xe9".encode("latin-1"))
    ),
    "NUL bytes": in_tar(PICTURE, ("bad.txt", b"a\0b")),
    "20,000 words": in_tar(PICTURE, ("bad.txt", b"word " * 20_000)),
    "special tokens, spelled out": control_tokens,
    "an image without a caption": in_tar(PICTURE),
    "a caption without an image": in_tar(("bad.txt", b"text")),
    "json without a caption": in_tar(PICTURE, ("bad.json", b"{}")),
    "broken json": in_tar(PICTURE, ("bad.json", b"{'a'")),
    "json nested 100,000 deep": in_tar(PICTURE, ("bad.json", b"[" * 100_000)),
    "a number as caption": in_tar(PICTURE, ("bad.json", b'{"caption": 3}')),
    "CSV: a field too few": of_csv("0.jpg"),
    "CSV: a field too many": of_csv("0.jpg,a,b"),
    "CSV: not UTF-8": of_csv("0.jpg,caf\udce9"),
    "CSV: missing image file": of_csv("nowhere.jpg,x"),
    "CSV: a path outside the image folder": of_csv("../secret.jpg,x"),
    "CSV: no such column": no_column,
    "CSV: a quote that is never closed": of_csv('0.jpg,"open'),
    "CSV: a quote that the next quote seems to close": of_csv(
        '0.jpg,"open', "0.jpg,fine", '0.jpg,"a dog, a cat"'
    ),
    "CSV: quotes inside a field": of_csv('0.jpg,"He said "hi" to me"'),
    "CSV: a line break inside a field": of_csv('0.jpg,"one\ntwo"'),
    "CSV: a line too long (limit lowered to 100 characters)": long_row,
    "CSV: a broken data URI": of_csv("data:image/png;base64_AAAA,x"),
}
