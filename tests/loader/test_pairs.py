"""Captions as a text encoder reads them."""

from pathlib import Path

import pytest
import tiny
import torch

from mm1.data.tokenizer import Tokenizer
from mm1.loader.pairs import caption_tokens, pad_captions


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    return tiny.tokenizer(tmp_path, "word")


def test_a_caption_ends_with_the_end_token_and_is_truncated_before_it(
    tokenizer: Tokenizer,
) -> None:
    assert caption_tokens([7, 8], tokenizer, 4) == [7, 8, tokenizer.end]
    assert caption_tokens([7, 8, 9, 10], tokenizer, 4) == [
        7,
        8,
        9,
        tokenizer.end,
    ]
    assert caption_tokens([], tokenizer, 4) == [tokenizer.end]


def test_a_caption_begins_with_the_begin_token(tokenizer: Tokenizer) -> None:
    tokenizer.begin = 5
    assert caption_tokens([7, 8], tokenizer, 4) == [5, 7, 8, tokenizer.end]
    assert caption_tokens([7, 8, 9], tokenizer, 4) == [5, 7, 8, tokenizer.end]


def test_captions_are_padded_with_the_tokenizers_pad_token(
    tokenizer: Tokenizer,
) -> None:
    """An encoder that attends to padding must see the token it was trained with."""
    tokenizer.pad = 3
    tokens, lengths = pad_captions([[7, 8, 1], [1]], tokenizer, 4)
    assert torch.equal(tokens, torch.tensor([[7, 8, 1, 3], [1, 3, 3, 3]]))
    assert lengths.tolist() == [3, 1]
