"""Special tokens: named in a file beside the tokenizer, part of its fingerprint, used
by rendering."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import raw_files
import tiny

from mm1.config import ConfigError
from mm1.data.document import Document, Text
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from mm1.data.tokenizer_file import is_explosive
from mm1.prepare.pipeline import prepare

NAMES = {"pad": "<pad>", "end": "<end>", "image": "<image>"}


def build(folder: Path, **special_tokens: object) -> Tokenizer:
    train_tokenizer(
        ["a cat sits on a mat"] * 3, folder / "tokenizer.json", vocab_size=300
    )
    (folder / SPECIAL_TOKENS).write_text(json.dumps(NAMES | special_tokens))
    return Tokenizer.Config(path=str(folder)).build()


def renamed(folder: Path) -> Tokenizer:
    """Like a published tokenizer: other names, a begin token, spare embedding rows."""
    made = train_tokenizer(
        ["a cat sits on a mat"] * 3, folder / "tokenizer.json", vocab_size=300
    )
    text = made.text.replace('"<end>"', '"<|eot|>"').replace(
        '"<pad>"', '"[PAD]"'
    )
    (folder / "tokenizer.json").write_text(text)
    special_tokens = {
        "pad": "[PAD]",
        "end": "<|eot|>",
        "image": "<image>",
        "begin": "<|eot|>",
        "vocab_size": 320,
    }
    (folder / SPECIAL_TOKENS).write_text(json.dumps(special_tokens))
    return Tokenizer.Config(path=str(folder)).build()


def test_special_tokens_are_read_from_the_file(tmp_path: Path) -> None:
    made = renamed(tmp_path)
    assert [made.name(token) for token in (made.pad, made.end, made.image)] == [
        "[PAD]",
        "<|eot|>",
        "<image>",
    ]
    assert (made.vocab_size, made.begin) == (320, made.end)
    assert made.suppress_tokens == [
        made.pad,
        made.image,
        *range(made.num_tokens, 320),
    ]
    assert not {made.end, made.pad, made.image} & set(
        made.encode("<|eot|>[PAD]<image>")
    )


def test_special_tokens_survive_saving_and_pickling(tmp_path: Path) -> None:
    made = renamed(tmp_path)
    (tmp_path / "copy").mkdir()
    made.save(tmp_path / "copy")
    for copy in (
        Tokenizer.Config(path=str(tmp_path / "copy")).build(),
        pickle.loads(pickle.dumps(made)),
    ):
        assert (copy.special_tokens, copy.fingerprint, copy.vocab_size) == (
            made.special_tokens,
            made.fingerprint,
            320,
        )


def test_the_fingerprint_covers_special_tokens_and_is_unchanged_without_the_file(
    tmp_path: Path,
) -> None:
    plain = train_tokenizer(
        ["a cat sits on a mat"] * 3, tmp_path / "tokenizer.json", vocab_size=300
    )
    text = json.dumps(json.loads(plain.text), sort_keys=True)
    assert plain.fingerprint == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (
        build(tmp_path).fingerprint == plain.fingerprint
    )  # a file that says what holds without it
    others = [build(tmp_path, vocab_size=301), build(tmp_path, begin="<end>")]
    assert len({plain.fingerprint, *(made.fingerprint for made in others)}) == 3


def test_every_document_begins_with_the_begin_token_which_is_no_target(
    tmp_path: Path,
) -> None:
    made = renamed(tmp_path)
    renderer = Renderer(made, None)
    whole = renderer(Document((Text("a cat"),)))
    prompt = renderer(Document((Text("a cat"),)), end=False)
    assert whole.tokens.tolist() == [
        made.begin,
        *made.encode("a cat"),
        made.end,
    ]
    assert whole.loss_mask.tolist() == [
        False,
        *[True] * (len(whole.tokens) - 1),
    ]
    assert prompt.tokens.tolist() == [made.begin, *made.encode("a cat")]


def test_prepared_lengths_include_the_begin_token(tmp_path: Path) -> None:
    made = renamed(tmp_path)
    raw_files.write_lines(
        tmp_path / "a.jsonl", [{"text": "a cat"}, {"text": "a mat on a mat"}]
    )
    prepare(
        "text",
        [tmp_path / "a.jsonl"],
        tmp_path / "out",
        tmp_path / "tokenizer.json",
    )
    shards = Shards(tmp_path / "out")
    renderer = Renderer(made, None)
    shards.check_tokenizer(made.fingerprint)
    assert (
        Tokenizer.Config(path=str(tmp_path / "out")).build().fingerprint
        == made.fingerprint
    )
    assert shards.text_tokens.tolist() == [
        len(renderer(shards.document(i)).tokens) for i in range(2)
    ]


@pytest.mark.parametrize(
    ("special_tokens", "said"),
    [
        ({"end": "</s>"}, "lacks the special tokens </s>"),
        ({"pad": "<end>"}, "must be three tokens"),
        ({"vocab_size": 5}, "says 5"),
        ({"pda": "<pad>"}, "did you mean 'pad'"),
    ],
)
def test_invalid_special_tokens_are_refused(
    special_tokens: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        build(tmp_path, **special_tokens)


EXPLOSIVE = (
    r"(a+)+$",
    r"(a*)*b",
    r"(?:a|aa)+$",
    r"((a+)b?)*c",
    r"(?:x+x+){2,}y",
    r"(.*a){3,}",
)
PUBLISHED = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r" ?[^(\s|[.,!?])]+",
    r"\p{N}+| (?=(\d{3})+(?!\d))",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r"\(+|[(+*]+|\{,3\}",
)


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_a_regular_expression_that_may_never_end_is_refused(
    pattern: str,
) -> None:
    assert is_explosive(pattern)


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_regular_expressions_of_published_tokenizers_are_not(
    pattern: str,
) -> None:
    assert not is_explosive(pattern)


@pytest.mark.filterwarnings("ignore")
def test_a_regular_expression_that_gives_up_is_an_error(tmp_path: Path) -> None:
    """Polynomial time passes the check: the library stops after ten million steps."""
    tiny.tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    parsed = json.loads(path.read_text())
    slow = {
        "type": "Replace",
        "pattern": {"Regex": "a*a*a*a*a*(?=[^a])"},
        "content": "",
    }
    path.write_text(json.dumps(parsed | {"normalizer": slow}))
    made = Tokenizer.Config(path=str(path)).build()
    with pytest.raises(ConfigError, match="the tokenizer gave up on a text"):
        made.encode("a" * 400)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: [], "is no tokenizer that can be read"),
        (lambda t: {}, "is no tokenizer that can be read"),
        (
            lambda t: t | {"x": json.loads("[" * 500 + "]" * 500)},
            "is no tokenizer that can be read",
        ),
        (
            lambda t: (
                t
                | {
                    "normalizer": {
                        "type": "Replace",
                        "pattern": {"Regex": "(a+)+b"},
                        "content": "",
                    }
                }
            ),
            r"has the regular expression '\(a\+\)\+b', which repeats",
        ),
        (
            lambda t: (
                t
                | {
                    "model": {
                        "type": "WordLevel",
                        "vocab": {
                            "<pad>": 0,
                            "<end>": 1,
                            "<image>": 2,
                            "a": (1 << 32) - 1,
                        },
                        "unk_token": "a",
                    }
                }
            ),
            "has ids up to 4,294,967,296; at most",
        ),
    ],
)
def test_a_hostile_tokenizer_is_one_error(
    change: Any, said: str, tmp_path: Path
) -> None:
    tiny.tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ConfigError, match=said) as error:
        Tokenizer.Config(path=str(path)).build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "names",
    ['{"end": ""}', '{"pad": 3}', '{"vocab_size": "9"}', '{"vocab_size": 1e9}'],
)
def test_special_tokens_of_the_wrong_kind(names: str, tmp_path: Path) -> None:
    tiny.tokenizer(tmp_path)
    (tmp_path / "special_tokens.json").write_text(names)
    with pytest.raises(ConfigError, match=r"special_tokens.json: .* cannot be"):
        Tokenizer.Config(path=str(tmp_path)).build()


def test_a_binary_file_is_no_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"\x80\xff")
    with pytest.raises(ConfigError, match=f"{path} is not UTF-8 text: get a"):
        Tokenizer.Config(path=str(path)).build()


@pytest.mark.parametrize("size", [-5, 10, 259, 1_000_001, 999_999_999_999])
def test_a_vocabulary_has_room_for_a_word_and_a_limit(
    size: int, tmp_path: Path
) -> None:
    out = tmp_path / "tokenizer.json"
    said = "must be at least 260 and at most 1000000, for 256 bytes, 3 special"
    with pytest.raises(ConfigError, match=said):
        train_tokenizer(["a text"], out, vocab_size=size)
    with pytest.raises(ConfigError, match="must be at least 5 and at most"):
        train_tokenizer(["a text"], out, vocab_size=4, kind="word")
    assert not out.exists()
    made = train_tokenizer(["of of of"], out, vocab_size=260)
    assert made.encode("of") == [259]
