"""Published tokenizers in a run folder: their special tokens, where new ones go, and
that text remains text."""

import json
from pathlib import Path
from typing import Any

import pytest
from published import write_tokenizer
from tokenizers import Tokenizer as Backend

from mm1.config import ConfigError
from mm1.data.tokenizer import SpecialTokens, Tokenizer
from mm1.export.tokens import (
    Vocabulary,
    export_vocabulary,
    import_vocabulary,
    published_ends,
)

END = 1  # the id of <|endoftext|>


def change_names(folder: Path, **names: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | names))


def add(folder: Path, *tokens: str) -> None:
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(list(tokens))
    backend.save(str(folder / "tokenizer.json"))


def built(folder: Path, vocabulary: Vocabulary) -> Tokenizer:
    (folder / "made").mkdir()
    (folder / "made" / "tokenizer.json").write_text(vocabulary.text)
    (folder / "made" / "special_tokens.json").write_text(
        vocabulary.special_tokens.to_json()
    )
    return Tokenizer.Config(path=str(folder / "made")).build()


def test_new_tokens_follow_the_last_one_and_text_that_spells_them_stays_text(
    tmp_path: Path,
) -> None:
    num_tokens = write_tokenizer(tmp_path)
    found = import_vocabulary(tmp_path, [END], num_tokens)
    assert (found.num_new, found.special_tokens) == (
        2,
        SpecialTokens(pad="<pad>", end="<|endoftext|>", image="<image>"),
    )
    made = built(tmp_path, found)
    before = Backend.from_file(str(tmp_path / "tokenizer.json"))
    assert (made.pad, made.image, made.end, made.vocab_size) == (
        num_tokens,
        num_tokens + 1,
        END,
        num_tokens + 2,
    )
    for text in ("a cat <image> <pad>", "naïve 漢字 <|begin|>"):
        before.encode_special_tokens = True
        assert made.encode(text) == before.encode(text).ids
        assert not {made.pad, made.image, made.end} & set(made.encode(text))


@pytest.mark.parametrize(
    ("spare", "num_new", "vocab_size"),
    [(0, 2, None), (1, 1, None), (2, 0, None), (20, 0, 320)],
)
def test_spare_rows_of_the_table_are_used_first(
    spare: int, num_new: int, vocab_size: int | None, tmp_path: Path
) -> None:
    num_tokens = write_tokenizer(tmp_path)
    found = import_vocabulary(tmp_path, [END], num_tokens + spare)
    assert (found.num_new, found.special_tokens.vocab_size) == (
        num_new,
        vocab_size,
    )
    assert built(tmp_path, found).vocab_size == num_tokens + spare + num_new


def test_a_token_before_every_text_is_kept(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, begin=True)
    assert (
        import_vocabulary(tmp_path, [END], 300).special_tokens.begin
        == "<|begin|>"
    )
    write_tokenizer(tmp_path, begin=False)
    assert import_vocabulary(tmp_path, [END], 300).special_tokens.begin is None


def test_padding_of_its_own_is_kept_unless_it_ends_texts(
    tmp_path: Path,
) -> None:
    write_tokenizer(tmp_path)
    add(tmp_path, "[PAD]")
    change_names(tmp_path, pad_token={"content": "[PAD]", "special": True})
    assert import_vocabulary(tmp_path, [END], 310).special_tokens.pad == "[PAD]"
    change_names(tmp_path, pad_token="<|endoftext|>")
    assert import_vocabulary(tmp_path, [END], 310).special_tokens.pad == "<pad>"


def test_a_token_for_pictures_of_its_own_is_kept(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    add(tmp_path, "<image>", "<pad>")
    found = import_vocabulary(tmp_path, [END], 302)
    assert (
        found.num_new,
        found.special_tokens.image,
        found.special_tokens.pad,
    ) == (
        0,
        "<image>",
        "<pad>",
    )
    assert found.text == (tmp_path / "tokenizer.json").read_text()


def test_a_word_that_text_can_spell_is_no_special_token(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    backend = Backend.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens(["<image>"])  # an ordinary word: it is found in text
    backend.save(str(tmp_path / "tokenizer.json"))
    found = import_vocabulary(tmp_path, [END], 400)
    assert found.special_tokens.image == "<|image|>"


@pytest.mark.parametrize(
    ("named", "ends", "expected"),
    [
        ("<|eot|>", [1, 301], "<|eot|>"),  # one of several: the tokenizer's own
        ("<|eot|>", [1], "<|endoftext|>"),  # the model's word counts
        ("<|eot|>", [], "<|eot|>"),
        (None, [301, 1], "<|eot|>"),
        ("</s>", [9999], None),
    ],
)
def test_what_ends_a_text(
    named: str | None, ends: list[int], expected: str | None, tmp_path: Path
) -> None:
    write_tokenizer(tmp_path)
    add(tmp_path, "<|other|>", "<|eot|>")
    change_names(tmp_path, eos_token=named)
    if expected is None:
        with pytest.raises(ConfigError, match="no token ends a text"):
            import_vocabulary(tmp_path, ends, 400)
    else:
        assert (
            import_vocabulary(tmp_path, ends, 400).special_tokens.end
            == expected
        )


def test_documents_that_begin_otherwise_than_the_tokenizer_says_are_not_exported(
    tmp_path: Path,
) -> None:
    write_tokenizer(tmp_path)
    found = import_vocabulary(tmp_path, [END], 300)
    tokenizer = built(
        tmp_path,
        Vocabulary(
            found.text, SpecialTokens(end="<|endoftext|>", begin="<|begin|>"), 0
        ),
    )
    with pytest.raises(
        ConfigError,
        match=r"begin with <\|begin\|> in this run, but its tokenizer.json puts None",
    ):
        export_vocabulary(
            tokenizer, tmp_path, max_length=16, padding_side="left"
        )


@pytest.mark.parametrize(
    ("generation", "own", "expected"),
    [
        (None, 1, [1]),
        (None, [1, 2], [1, 2]),
        (None, None, []),
        ({}, 1, [1]),
        ({"eos_token_id": None}, 1, [1]),
        ({"eos_token_id": 7}, 1, [7]),
        ({"eos_token_id": [7, 8]}, 1, [7, 8]),
    ],
)
def test_the_generation_config_says_what_ends_a_text(
    generation: dict[str, Any] | None,
    own: Any,
    expected: list[int],
    tmp_path: Path,
) -> None:
    if generation is not None:
        path = tmp_path / "generation_config.json"
        path.write_text(json.dumps(generation))
    assert published_ends(tmp_path, own) == expected


@pytest.mark.parametrize("wrong", ["</s>", [1, None], {"a": 1}, True, 1.0])
def test_ends_that_are_no_ids(wrong: Any, tmp_path: Path) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(ConfigError, match=r"eos_token_id .* are no ids"):
        published_ends(tmp_path, 1)
