from dataclasses import replace

import pytest
import torch
from nn.batches import ENCODER, without_gradient

from mm1.batch import PairBatch
from mm1.nn.clip import CLIP, LARGEST_SCALE, TextTower

TEXT = TextTower.Config(max_length=9, depth=2, dim=16, num_heads=2)


def make(*, class_token: bool = False) -> CLIP:
    torch.manual_seed(0)
    return CLIP.Config(encoder=replace(ENCODER, class_token=class_token), text=TEXT, dim=12).build(vocab_size=31)


def pairs(num: int = 4) -> PairBatch:
    torch.manual_seed(1)
    lengths = torch.arange(num) % 5 + 3
    tokens = torch.randint(1, 31, (num, 8)) * (torch.arange(8) < lengths[:, None])
    images = torch.randint(256, (num, 3, 8, 12), dtype=torch.uint8)
    return PairBatch(images=images, tokens=tokens, lengths=lengths, caption_ids=torch.arange(num))


@pytest.mark.parametrize("class_token", [False, True])
def test_every_parameter_learns(class_token: bool) -> None:
    model = make(class_token=class_token)
    losses = model(pairs())
    losses.objective.backward()
    assert without_gradient(model) == []
    assert set(losses.means) == {"loss", "accuracy"}
    assert losses.means["loss"].count == 4


def test_overfits_four_pairs() -> None:
    model, batch = make(), pairs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        losses = model(batch)
        losses.objective.backward()
        optimizer.step()
    assert losses.means["accuracy"].total == 4


def test_features_have_unit_length() -> None:
    model, batch = make(), pairs()
    for features in (model.encode_images(batch.images), model.encode_texts(batch.tokens, batch.lengths)):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(4))


def test_what_follows_a_captions_end_is_never_looked_at() -> None:
    model, batch = make(), pairs()
    junk = torch.where(torch.arange(8) < batch.lengths[:, None], batch.tokens, 7)
    given, changed = (model.encode_texts(tokens, batch.lengths) for tokens in (batch.tokens, junk))
    assert torch.equal(given, changed)


def test_the_temperature_is_bounded() -> None:
    model = make()
    torch.nn.init.constant_(model.projection.log_scale, 10.0)
    assert model.projection.scale == LARGEST_SCALE


def test_names_both_lengths_when_a_caption_is_too_long() -> None:
    with pytest.raises(ValueError, match="up to 9 tokens, got 10"):
        make().encode_texts(torch.ones(1, 10, dtype=torch.int64), torch.tensor([10]))


def test_parts_and_units_cover_the_model() -> None:
    model = make()
    of_parts = {id(p) for part in model.parts().values() for p in part.parameters()}
    assert of_parts == {id(p) for p in model.parameters()}
    assert len(model.units()) == 4


def test_flops_are_counted_by_part() -> None:
    flops = make().flops(pairs())
    assert set(flops) == {"encoder", "text", "projection"}
    assert all(count > 0 for count in flops.values())
