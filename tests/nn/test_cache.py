"""Decoding with the cache equals recomputing everything."""

from dataclasses import replace

import pytest
import torch
from nn.batches import (
    DECODER,
    PLACES,
    VOCABULARY,
    hidden,
    language_model,
    multimodal_model,
    packed,
)

from mm1.nn.decoder import LanguageModel

PROMPTS = (5, 1, 9)


def logits(model: LanguageModel, documents: list[torch.Tensor]) -> torch.Tensor:
    """Logits of the token after each document, without a cache."""
    batch = replace(
        packed([len(d) for d in documents]), tokens=torch.cat(documents)
    )
    return (hidden(model, batch) @ model.decoder.head.T)[
        batch.cu_seqlens[1:] - 1
    ]


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_prefill_and_steps_equal_reading_everything(kv_heads: int) -> None:
    model = language_model(decoder=replace(DECODER, num_kv_heads=kv_heads))
    batch = packed(PROMPTS)
    documents = list(batch.tokens.split(PROMPTS))
    cache = model.new_cache(len(PROMPTS), max_length=14)
    # Another order of fp32 sums over logits of unit size; measured 2e-6 after five
    # steps.
    torch.testing.assert_close(
        model.prefill(batch, cache), logits(model, documents), atol=1e-5, rtol=0
    )
    for _ in range(5):
        new = torch.randint(VOCABULARY, (len(PROMPTS),))
        documents = [
            torch.cat((d, token[None]))
            for d, token in zip(documents, new, strict=True)
        ]
        torch.testing.assert_close(
            model.step(new, cache), logits(model, documents), atol=1e-5, rtol=0
        )


@torch.no_grad()
def test_a_padding_document_after_the_prompts_is_ignored() -> None:
    model = language_model()
    padded = packed((*PROMPTS, 30))
    cache = model.new_cache(len(PROMPTS), max_length=10)
    first = model.prefill(padded, cache)
    torch.testing.assert_close(
        first,
        logits(model, list(padded.tokens.split((*PROMPTS, 30)))[:3]),
        atol=1e-5,
        rtol=0,
    )
    assert cache.bound == 9


@torch.no_grad()
def test_prompts_with_pictures_are_read_as_in_training() -> None:
    model = multimodal_model()
    batch = packed((9, 6), num_pictures=2)
    expected = (hidden(model, batch) @ model.decoder.head.T)[
        batch.cu_seqlens[1:] - 1
    ]
    assert PLACES < 6
    torch.testing.assert_close(
        model.prefill(batch, model.new_cache(2, 9)), expected, atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_names_the_sizes_when_the_cache_is_too_small() -> None:
    model = language_model()
    batch = packed(PROMPTS)
    with pytest.raises(
        ValueError, match="prompt of 9 tokens does not fit a cache of 8"
    ):
        model.prefill(batch, model.new_cache(3, 8))
    with pytest.raises(
        ValueError, match="holds 4 prompts, the batch has 3 documents"
    ):
        model.prefill(batch, model.new_cache(4, 9))
    cache = model.new_cache(3, 9)
    model.prefill(batch, cache)
    with pytest.raises(ValueError, match="cache of 9 tokens a prompt is full"):
        model.step(torch.zeros(3, dtype=torch.int64), cache)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_prompts_after_a_shared_prefix_equal_reading_everything(
    kv_heads: int,
) -> None:
    model = language_model(decoder=replace(DECODER, num_kv_heads=kv_heads))
    # the last one is padding
    beginning = packed([7])
    batch = packed((*PROMPTS, 4))
    model.prefill(beginning, prefix := model.new_cache(1, 7))
    documents = [
        torch.cat((beginning.tokens, rest))
        for rest in batch.tokens.split((*PROMPTS, 4))[:3]
    ]
    cache = model.new_cache(len(PROMPTS), max_length=14, prefix=prefix)
    # Another order of fp32 sums over logits of unit size; measured 2.5e-6 in six seeds
    # of five steps.
    torch.testing.assert_close(
        model.prefill(batch, cache), logits(model, documents), atol=1e-5, rtol=0
    )
    for _ in range(5):
        new = torch.randint(VOCABULARY, (len(PROMPTS),))
        documents = [
            torch.cat((d, token[None]))
            for d, token in zip(documents, new, strict=True)
        ]
        torch.testing.assert_close(
            model.step(new, cache), logits(model, documents), atol=1e-5, rtol=0
        )
    assert (prefix.bound, cache.offset) == (7, 7)
