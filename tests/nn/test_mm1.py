from dataclasses import replace

import pytest
import torch
from nn.batches import (
    ENCODER,
    PLACES,
    alone,
    hidden,
    multimodal_model,
    packed,
    without_gradient,
)
from nn.connector_cases import accepted, every_connector
from torch import nn

from mm1.nn.connectors import Connector
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.mm1 import MM1

LENGTHS = (9, 5, 12, 6)


@every_connector
def test_every_parameter_learns_and_changes_in_one_step(
    cls: type[Connector],
) -> None:
    config, (h, w) = accepted(cls)[0]
    side = ENCODER.patch_size
    encoder = replace(ENCODER, image_size=(h * side, w * side))
    model = multimodal_model(config, encoder=encoder)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    num_tokens = model.tokens_per_image
    lengths = [num_tokens + length for length in LENGTHS]
    batch = packed(
        lengths,
        num_pictures=3,
        image_size=(h * side, w * side),
        num_places=num_tokens,
    )
    model(batch).objective.backward()
    assert without_gradient(model) == []
    torch.optim.AdamW(model.parameters(), lr=1e-2).step()
    assert [
        name
        for name, p in model.named_parameters()
        if torch.equal(p, before[name])
    ] == []


@pytest.mark.parametrize("document", range(len(LENGTHS)))
def test_a_packed_document_has_the_states_it_has_alone(document: int) -> None:
    model = multimodal_model()
    batch = packed(LENGTHS, num_pictures=3)
    start, stop = batch.cu_seqlens[document : document + 2].tolist()
    # As for text; measured 0 at these sizes.
    torch.testing.assert_close(
        hidden(model, batch)[start:stop],
        hidden(model, alone(batch, document)),
        atol=1e-5,
        rtol=0,
    )


def test_another_documents_picture_moves_nothing() -> None:
    model = multimodal_model()
    batch = packed(LENGTHS, num_pictures=3)
    changed = batch.images.clone()
    changed[1] = 255 - changed[1]
    a = hidden(model, batch)
    b = hidden(model, replace(batch, images=changed))
    start, stop = batch.cu_seqlens[1:3].tolist()
    assert (a != b).any(-1).tolist() == [
        start <= token < stop for token in range(sum(LENGTHS))
    ]


def test_pictures_take_their_slots() -> None:
    model = multimodal_model()
    batch = packed(LENGTHS, num_pictures=3)
    x = model.inputs(batch)
    features = model.connector(model.encoder(batch.images))
    assert torch.equal(x[batch.slots], features)
    text = torch.ones(len(x), dtype=torch.bool)
    text[batch.slots.flatten()] = False
    assert torch.equal(x[text], model.decoder.embed(batch.tokens)[text])


def test_without_pictures_the_encoders_gradient_is_exactly_zero() -> None:
    model = multimodal_model()
    batch = packed(LENGTHS)
    losses = model(batch)
    losses.objective.backward()
    for part in (model.encoder, model.connector):
        assert all(
            p.grad is not None and not p.grad.any() for p in part.parameters()
        )
    assert without_gradient(model.decoder) == []
    brighter = replace(batch, images=255 - batch.images)
    assert torch.equal(losses.objective, model(brighter).objective)


def test_only_the_first_pictures_are_used_when_there_are_more_than_slots() -> (
    None
):
    model = multimodal_model()
    batch = packed(LENGTHS, num_pictures=3)
    more = replace(batch, images=torch.cat((batch.images, batch.images)))
    torch.testing.assert_close(model(more).objective, model(batch).objective)


def test_names_both_counts_when_tokens_and_features_disagree() -> None:
    model = multimodal_model()
    batch = packed(LENGTHS, num_pictures=3)
    with pytest.raises(
        ValueError, match="image tokens for 3 images, but features of 2"
    ):
        model(replace(batch, images=batch.images[:2]))
    with pytest.raises(
        ValueError, match="3 image tokens per image, the connector gives 4"
    ):
        model(replace(batch, slots=batch.slots[:, :3]))


def test_parts_and_units_cover_the_model() -> None:
    model = multimodal_model()
    assert list(model.parts()) == ["encoder", "connector", "decoder"]
    of_parts = {
        id(p) for part in model.parts().values() for p in part.parameters()
    }
    assert of_parts == {id(p) for p in model.parameters()}
    assert len(model.units()) == 2 + 1 + 2


def test_flops_count_every_picture() -> None:
    model = multimodal_model()
    one, three = (
        model.flops(packed(LENGTHS, num_pictures=num)) for num in (1, 3)
    )
    assert three["encoder"] == 3 * one["encoder"] == 3 * model.encoder.flops()
    assert three["connector"] == 3 * one["connector"]
    assert three["decoder"] > 0


def test_blank_images_are_no_work_and_change_nothing() -> None:
    """Rows of a larger product may be summed in another order, hence a bound of 1e-6 of
    a gradient's largest value."""
    batch = packed(LENGTHS, num_pictures=2)
    blank = torch.zeros(3, *batch.images.shape[1:], dtype=torch.uint8)
    padded = replace(batch, images=torch.cat((batch.images, blank)))
    model = multimodal_model()
    results = []
    for each in (batch, padded):
        model.zero_grad()
        losses = model(each)
        losses.objective.backward()
        results.append(
            [losses.objective, *(p.grad for p in model.parameters())]
        )
    for one, other in zip(*results, strict=True):
        scale = one.abs().max()
        torch.testing.assert_close(
            other / scale, one / scale, rtol=0, atol=1e-6
        )
    assert model.flops(padded) == model.flops(batch)
    none = replace(batch, slots=batch.slots[:0])
    assert model.flops(none)["encoder"] == 0


def test_flops_walk_the_modules_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """11 to 13 ms for MM1-3B, otherwise spent in each micro-batch."""
    model = multimodal_model(CAbstractor.Config(num_tokens=PLACES, dim=8))
    batch = packed(LENGTHS, num_pictures=2)
    first = model.flops(batch)
    monkeypatch.setattr(nn.Module, "named_modules", None)
    monkeypatch.setattr(nn.Module, "named_parameters", None)
    assert model.flops(batch) == first


def test_the_ablation_base_builds_on_meta() -> None:
    """ViT-L/14 at 336 pixels, 144 tokens, 1.2B decoder (MM1, section 3.1)."""
    with torch.device("meta"):
        model = MM1.Config().build(vocab_size=32_768)
    sizes = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in model.parts().items()
    }
    assert sizes["encoder"] == pytest.approx(303e6, rel=0.01)
    assert sizes["decoder"] == pytest.approx(1.3e9, rel=0.02)
