from dataclasses import replace
from typing import Any

import pytest
import torch
from nn.batches import ENCODER, without_gradient

from mm1.batch import PairBatch
from mm1.config import ConfigError
from mm1.nn.block import quick_gelu
from mm1.nn.clip import CLIP, MAX_SCALE
from mm1.nn.text_tower import TextTower
from mm1.nn.vit import ViT

TEXT = TextTower.Config(max_length=9, depth=2, dim=16, num_heads=2)
SIGLIP_TEXT = replace(
    TEXT, max_length=8, causal=False, read="last", output_bias=True
)
SIGLIP: dict[str, Any] = {
    "text": SIGLIP_TEXT,
    "dim": None,
    "pooling": "attention",
    "loss": "sigmoid",
}


def make(*, encoder: ViT.Config = ENCODER, **options: Any) -> CLIP:
    torch.manual_seed(0)
    return CLIP.Config(
        **({"encoder": encoder, "text": TEXT, "dim": 12} | options)
    ).build(vocab_size=31)


def pairs(num: int = 4) -> PairBatch:
    torch.manual_seed(1)
    lengths = torch.arange(num) % 5 + 3
    tokens = torch.randint(1, 31, (num, 8)) * (
        torch.arange(8) < lengths[:, None]
    )
    images = torch.randint(256, (num, 3, 8, 12), dtype=torch.uint8)
    return PairBatch(
        images=images,
        tokens=tokens,
        lengths=lengths,
        caption_ids=torch.arange(num),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoder": replace(ENCODER, class_token=True)},
        {
            "encoder": replace(ENCODER, class_token=True, num_registers=2),
            "pooling": "mean",
        },
        {"loss": "sigmoid"},
        SIGLIP,
    ],
)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    """Class token and registers that are not pooled learn through the patches, which
    see them."""
    model = make(**options)
    losses = model(pairs())
    losses.objective.backward()
    assert without_gradient(model) == []
    assert set(losses.means) == {"loss", "accuracy", "scale"}
    assert all(mean.count == 4 for mean in losses.means.values())


@pytest.mark.parametrize("options", [{}, SIGLIP], ids=["clip", "siglip"])
def test_overfits_four_pairs(options: dict[str, Any]) -> None:
    model = make(**options)
    batch = pairs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        losses = model(batch)
        losses.objective.backward()
        optimizer.step()
    assert losses.means["accuracy"].total == 4


def test_features_have_unit_length() -> None:
    model = make()
    batch = pairs()
    for features in (
        model.encode_images(batch.images),
        model.encode_texts(batch.tokens, batch.lengths),
    ):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4))


def test_what_follows_a_captions_end_is_never_looked_at() -> None:
    model = make()
    batch = pairs()
    junk = torch.where(
        torch.arange(8) < batch.lengths[:, None], batch.tokens, 7
    )
    given, changed = (
        model.encode_texts(tokens, batch.lengths)
        for tokens in (batch.tokens, junk)
    )
    assert torch.equal(given, changed)


def test_a_captions_feature_is_that_of_its_end() -> None:
    model = make()
    batch = pairs()
    other = batch.tokens.clone()
    other[torch.arange(4), batch.lengths - 1] = 30
    given, changed = (
        model.encode_texts(tokens, batch.lengths)
        for tokens in (batch.tokens, other)
    )
    assert ((given - changed).abs().amax(-1) > 1e-3).all()


def test_quick_gelu_is_openai_s() -> None:
    """Their `QuickGELU`: x * sigmoid(1.702 * x)."""
    torch.testing.assert_close(
        quick_gelu(torch.tensor([-1.0, 2.0])),
        torch.tensor([-0.154204, 1.935659]),
    )


def test_the_softmax_starts_at_clips_temperature() -> None:
    projection = make().projection
    assert projection.bias is None
    assert projection.scale.item() == pytest.approx(1 / 0.07)


def test_the_softmax_temperature_is_bounded_and_can_come_back() -> None:
    """A plain clamp has no gradient beyond the bound, so the scale would be stuck."""
    model = make()
    log_scale = model.projection.log_scale
    torch.nn.init.constant_(log_scale, 10.0)
    assert model.projection.scale.item() == pytest.approx(MAX_SCALE)
    for slope, wanted in (
        (-1.0, 0.0),
        (1.0, MAX_SCALE),
    ):  # descent along -slope: further out, and back in
        (gradient,) = torch.autograd.grad(
            slope * model.projection.scale, log_scale
        )
        assert gradient.item() == pytest.approx(wanted)
    torch.nn.init.constant_(log_scale, 1.0)
    (gradient,) = torch.autograd.grad(-model.projection.scale, log_scale)
    assert gradient == -model.projection.scale


def test_the_sigmoid_starts_as_siglip_does() -> None:
    projection = make(loss="sigmoid").projection
    assert projection.bias is not None
    assert (projection.scale.item(), projection.bias.item()) == (
        pytest.approx(10),
        -10,
    )


def test_pooling_reads_the_tokens_that_it_names() -> None:
    """The sequence is class token, two registers, patches; `dim=None` leaves out the
    projection."""
    encoder = replace(ENCODER, class_token=True, num_registers=2)
    images = pairs().images
    for pooling, start, stop in (
        ("class", 0, 1),
        (None, 0, 1),
        ("mean", 3, None),
    ):
        model = make(encoder=encoder, pooling=pooling, dim=None)
        tokens = model.encoder.tokens(images)[:, start:stop]
        wanted = torch.nn.functional.normalize(tokens.mean(1), dim=-1)
        torch.testing.assert_close(model.encode_images(images), wanted)


def test_a_class_token_that_is_not_there_cannot_be_read() -> None:
    with pytest.raises(
        ConfigError, match=r"pooling='class' needs encoder\.class_token=True"
    ):
        make(pooling="class")


def test_siglips_text_tower_looks_at_the_padding_and_wants_all_of_it() -> None:
    model = make(**SIGLIP)
    batch = pairs()
    padded = torch.where(
        torch.arange(8) < batch.lengths[:, None], batch.tokens, 7
    )
    given, other = (
        model.encode_texts(tokens, batch.lengths)
        for tokens in (batch.tokens, padded)
    )
    assert not torch.allclose(given, other, atol=1e-3)
    with pytest.raises(
        ValueError,
        match=r"captions of exactly 8 tokens, got 6; set loader\.context",
    ):
        model.encode_texts(batch.tokens[:, :6], batch.lengths)


def test_a_vocabulary_of_its_own_holds_the_tokenizers() -> None:
    assert (
        len(make(text=replace(TEXT, vocab_size=40)).text.embedding.weight) == 40
    )
    with pytest.raises(
        ConfigError,
        match=r"text\.vocab_size=30 is less than the tokenizer's 31",
    ):
        make(text=replace(TEXT, vocab_size=30))


def test_names_both_lengths_when_a_caption_is_too_long() -> None:
    with pytest.raises(ValueError, match="at most 9 tokens, got 10"):
        make().encode_texts(
            torch.ones(1, 10, dtype=torch.int64), torch.tensor([10])
        )


@pytest.mark.parametrize("options", [{}, SIGLIP], ids=["clip", "siglip"])
def test_parts_and_units_cover_the_model(options: dict[str, Any]) -> None:
    model = make(**options)
    of_parts = {
        id(p) for part in model.parts().values() for p in part.parameters()
    }
    assert of_parts == {id(p) for p in model.parameters()}
    assert len(model.units()) == 4


def test_flops_are_counted_by_part() -> None:
    assert set(make().flops(pairs())) == {"encoder", "text", "projection"}
    flops = make(**SIGLIP).flops(pairs())
    assert set(flops) == {"encoder", "text", "pooling", "projection"}
    assert all(count > 0 for count in flops.values())
