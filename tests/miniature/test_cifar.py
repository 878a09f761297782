"""CIFAR-10's files, and what is written about photographs; on pictures made here."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mm1.config import UserError
from mm1.data.prepared.shards import Shards
from mm1.miniature.cifar import prepared
from mm1.miniature.cifar.cifar10 import (
    LABELS,
    VARIABLE,
    Photograph,
    cifar_files,
    read_photographs,
)
from mm1.miniature.cifar.writing import (
    FACTS,
    PLURALS,
    caption,
    facts_or_list,
    page,
    with_article,
)
from tests.raw_files import jpeg


def write_cifar(
    path: Path, labels: list[Any], image: str = "image", first: int = 0
) -> Path:
    rows = [
        {
            image: {"bytes": jpeg(first + n, (32, 32)), "path": f"{n}.jpg"},
            "label": label,
        }
        for n, label in enumerate(labels)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four photographs of each class to train on, and two to test on."""
    folder = tmp_path / "given"
    folder.mkdir()
    write_cifar(folder / "cifar10-train.parquet", list(LABELS) * 4)
    write_cifar(folder / "cifar10-test.parquet", list(LABELS) * 2, first=100)
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


def test_numbers_and_words_are_the_same_labels(tmp_path: Path) -> None:
    words = write_cifar(tmp_path / "words.parquet", ["deer", "truck"])
    numbers = write_cifar(tmp_path / "numbers.parquet", [4, 9], "img")
    assert read_photographs(words, "test") == read_photographs(numbers, "test")
    first, second = read_photographs(words, "test")
    assert (first.label, second.id) == ("deer", "test/1")
    assert first.data == jpeg(0, (32, 32))
    assert len(repr(first)) < 50


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (10, "the label is 10"),
        ("plane", "the label is 'plane'"),
        (None, "None"),
    ],
)
def test_an_unknown_label_is_named_with_its_row(
    label: Any, said: str, tmp_path: Path
) -> None:
    known = 3 if isinstance(label, int) else "cat"
    path = write_cifar(tmp_path / "x.parquet", [known, label])
    with pytest.raises(UserError, match=rf"x\.parquet, row 1: .*{said}"):
        read_photographs(path, "train")


def test_missing_or_damaged_files_are_said(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(cifar_files()) == {"train", "test"}
    (given / "cifar10-test.parquet").unlink()
    with pytest.raises(
        UserError, match=r"no CIFAR-10 file \*test\*\.parquet in"
    ):
        prepared.prepare_photographs(tmp_path / "out")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=VARIABLE):
        cifar_files()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"cut\.parquet: .*get it again"):
        read_photographs(tmp_path / "cut.parquet", "train")
    pq.write_table(pa.table({"fine": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"columns fine; CIFAR-10 has image"):
        read_photographs(tmp_path / "other.parquet", "train")
    empty = pa.table({"image": [{"bytes": b"", "path": "a"}], "label": [1]})
    pq.write_table(empty, tmp_path / "empty.parquet")
    with pytest.raises(UserError, match="row 0: there are no bytes"):
        read_photographs(tmp_path / "empty.parquet", "train")


def test_a_class_that_is_not_there_is_named(
    given: Path, tmp_path: Path
) -> None:
    write_cifar(given / "cifar10-train.parquet", ["cat", "dog"])
    with pytest.raises(UserError, match="no training photograph of airplane"):
        prepared.prepare_photographs(tmp_path / "out")
    assert not (tmp_path / "out" / "raw").exists()


def photographs() -> list[Photograph]:
    return [
        Photograph(bytes([n]), label, f"train/{n}")
        for n, label in enumerate(LABELS * 3)
    ]


def test_captions_and_pages_say_what_is_shown() -> None:
    said = set()
    kinds: Counter[str] = Counter()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        label = LABELS[seed % 10]
        words = caption(label, rng)
        assert with_article(label) in words
        said.add(words.replace(with_article(label), "{}"))
        made = page(photographs(), rng)
        shown = [part for part in made if isinstance(part, Photograph)]
        texts = [part for part in made if isinstance(part, str)]
        assert 2 <= len(shown) <= 8
        if len(texts) == 1:
            kinds["one kind"] += 1
            (kind,) = {each.label for each in shown}
            assert texts[0].endswith(f"photos of {PLURALS[kind]}")
            continue
        bare = texts[0] in LABELS
        kinds["list" if bare else str(isinstance(made[0], str))] += 1
        assert len(texts) == len(shown)
        for each, words in zip(shown, texts, strict=True):
            wanted = each.label if bare else with_article(each.label)
            assert wanted in words
    assert len(said) > 8
    assert set(kinds) == {"list", "one kind", "True", "False"}
    assert kinds["list"] == max(kinds.values())


def test_texts_are_facts_or_lists_with_letters_of_their_own() -> None:
    assert set(FACTS) == set(LABELS)
    lists = 0
    for seed in range(60):
        words = facts_or_list(np.random.default_rng(seed)).split()
        if words[0] in ("a", "an") and words[1] in LABELS:
            continue
        lists += 1
        pairs = dict(zip(words[::2], words[1::2], strict=True))
        assert set(pairs) <= set(LABELS)
        assert [pairs[label] for label in words[::2]] == words[1::2]
    assert 10 < lists < 50


def test_folders_are_prepared_from_the_training_photographs(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "NUM_PAGES", 12)
    monkeypatch.setattr(prepared, "NUM_TEXTS", 12)
    out = tmp_path / "photographs"
    prepared.prepare_photographs(out)
    own = {
        each.data: each.label
        for each in read_photographs(given / "cifar10-train.parquet", "train")
    }
    for name in ("labels", "captions"):
        shards = Shards(out / name, "train")
        found = {}
        for number in range(len(shards)):
            document = shards.read(number)[1]
            found[document.images[0].data] = document.text.removeprefix(
                "<image>"
            )
        assert set(found) <= set(own)
        assert len(found) > 30
        for data, words in found.items():
            assert own[data] in words
            assert name == "captions" or own[data] == words
    (given / "cifar10-train.parquet").unlink()
    prepared.prepare_photographs(out)  # all of it is there
    own_words = tmp_path / "own.json"
    (out / "tokenizer.json").rename(own_words)
    other = tmp_path / "other"
    for split in ("train", "test"):
        write_cifar(given / f"{split}.parquet", list(LABELS))
    prepared.prepare_photographs(other, own_words)
    assert not (other / "tokenizer.json").exists()
    assert (other / "pages" / "manifest.json").is_file()
