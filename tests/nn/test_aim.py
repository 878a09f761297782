"""AIM: attention masks, losses, and metrics that do not depend on how images are
batched."""

from dataclasses import replace

import pytest
import torch
from nn import masks
from nn.batches import ENCODER, without_gradient
from torch import Tensor

from mm1.batch import ImageBatch
from mm1.config import ConfigError
from mm1.nn.aim import AIM
from mm1.nn.attention import FullAttention, PrefixAttention
from mm1.nn.losses import patch_regression_loss, patch_targets
from mm1.nn.vit import ViT

FIXED = replace(ENCODER, positions="fixed", patch_norm=True, bias=False)
"""4 x 6 patches of 2 pixels."""
PLACES = 24


def make(encoder: ViT.Config = FIXED) -> AIM:
    torch.manual_seed(0)
    return AIM.Config(encoder=encoder, head_depth=2, head_dim=20).build(
        vocab_size=31
    )


def images(num: int = 3, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(
        256, (num, 3, *FIXED.image_size), dtype=torch.uint8, generator=draw
    )


def qkv(num: int = 3, length: int = 5, device: str = "cpu") -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(num, length, 2, 8, device=device) for _ in range(3)]


def test_each_sequence_has_its_own_prefix() -> None:
    lengths = torch.tensor([1, 2, 4])
    assert torch.equal(
        PrefixAttention(lengths, 4).seen,
        torch.stack([masks.prefix_mask(4, n) for n in (1, 2, 4)]),
    )


def test_attends_as_the_dense_reference() -> None:
    """Worst difference measured: 2e-7, from another order of sums in fp32."""
    q, k, v = qkv()
    lengths = [1, 3, 5]
    mixed = PrefixAttention(torch.tensor(lengths), 5).attend(q, k, v)
    for i, length in enumerate(lengths):
        scores = torch.einsum("qhd,khd->hqk", q[i], k[i]) / 8**0.5
        weights = scores.masked_fill(
            ~masks.prefix_mask(5, length), -torch.inf
        ).softmax(-1)
        torch.testing.assert_close(
            mixed[i],
            torch.einsum("hqk,khd->qhd", weights, v[i]),
            atol=1e-6,
            rtol=0,
        )


def test_a_prefix_of_everything_is_everything() -> None:
    """Worst difference measured: 2e-7."""
    q, k, v = qkv()
    whole = PrefixAttention(torch.tensor([5, 5, 5]), 5).attend(q, k, v)
    torch.testing.assert_close(
        whole, FullAttention().attend(q, k, v), atol=1e-6, rtol=0
    )


@pytest.mark.gpu
@pytest.mark.parametrize("length", [16, 100, 256])
def test_the_gpu_agrees_with_the_cpu(length: int) -> None:
    lengths = torch.tensor([1, length // 2, length - 1])
    here = PrefixAttention(lengths, length).attend(*qkv(length=length))
    there = PrefixAttention(lengths.cuda(), length).attend(
        *(x.cuda() for x in qkv(length=length))
    )
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefix", [1, 7, 23])
def test_a_prediction_depends_on_exactly_the_patches_that_the_mask_shows(
    prefix: int,
) -> None:
    """By gradient: the prediction after patch i, with respect to every patch's
    embedding."""
    model = make()
    embeddings = model.encoder.patchify.register_forward_hook(
        lambda _, __, out: seen.append(out) or None
    )
    seen: list[Tensor] = []
    predictions = model.predict(images(1), torch.tensor([prefix]))
    embeddings.remove()
    depends = []
    for i in range(PLACES - 1):
        (gradient,) = torch.autograd.grad(
            predictions[0, i].sum(), seen[0], retain_graph=True
        )
        depends.append(gradient[0].abs().sum(-1) > 0)
    assert torch.equal(
        torch.stack(depends), masks.prefix_mask(PLACES, prefix)[:-1]
    )


def test_no_prediction_that_counts_has_seen_its_target() -> None:
    """The last patch of the prefix is the first with a loss: it sees only the
    prefix."""
    for prefix in range(1, PLACES):
        shown = masks.prefix_mask(PLACES, prefix)
        loss_mask = torch.arange(1, PLACES) >= prefix
        leaks = shown[torch.arange(PLACES - 1), torch.arange(1, PLACES)]
        assert not (leaks & loss_mask).any()
        assert loss_mask.sum() == PLACES - prefix


def test_targets_have_no_mean_and_unit_deviation() -> None:
    patches = make().encoder.patches(images())
    targets = patch_targets(patches)
    torch.testing.assert_close(
        targets.mean(-1), torch.zeros(3, PLACES), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        targets.var(-1, correction=0), torch.ones(3, PLACES), atol=1e-5, rtol=0
    )
    assert torch.equal(
        patch_targets(torch.full((1, 2, 12), 0.3)), torch.zeros(1, 2, 12)
    )


def test_a_constant_predictor_loses_one_on_each_patch() -> None:
    """The variance of the targets: 1, but for the 1e-6 that is added to it."""
    prefixes = torch.tensor([1, 10, 23])
    targets = patch_targets(make().encoder.patches(images()))
    total, count = patch_regression_loss(
        torch.zeros(3, PLACES - 1, 12), targets, prefixes
    )
    assert count == 23 + 14 + 1
    assert total / count == pytest.approx(1, abs=1e-5)


def test_only_predictions_after_the_prefix_have_a_loss() -> None:
    targets = patch_targets(make().encoder.patches(images(1)))
    predictions = targets[:, 1:].clone()
    predictions[0, :8] += 5.0
    assert (
        patch_regression_loss(predictions, targets, torch.tensor([9]))[0] == 0
    )
    assert patch_regression_loss(predictions, targets, torch.tensor([8]))[
        0
    ] == pytest.approx(25)


def test_every_parameter_learns_but_the_fixed_positions() -> None:
    model = make()
    losses = model(ImageBatch(images=images()))
    losses.objective.backward()
    assert without_gradient(model) == ["encoder.position"]
    assert not model.encoder.position.requires_grad
    loss = losses.means["loss"]
    assert losses.objective.item() == pytest.approx(
        float(loss.total) / (PLACES / 2)
    )


def test_the_head_reads_features_with_the_position_of_each() -> None:
    model = make()
    prefixes = torch.tensor([3, 7, 20])
    read = []
    model.head.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    model.predict(images(), prefixes)
    features = model.encoder.tokens(images(), PrefixAttention(prefixes, PLACES))
    assert torch.equal(
        read[0], (features + model.encoder.position.flatten(0, 1))[:, :-1]
    )


def test_overfits_two_images() -> None:
    model = make(replace(FIXED, dim=32))
    batch = ImageBatch(images=images(2))
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, fused=True
    )
    figures = []
    for _ in range(40):
        optimizer.zero_grad()
        losses = model(batch)
        losses.objective.backward()
        optimizer.step()
        figures.append(
            float(losses.means["loss"].total / losses.means["loss"].count)
        )
    assert figures[0] > 1
    assert figures[-1] < 0.5


def test_prefixes_are_drawn_from_the_steps_seed_and_reach_both_ends() -> None:
    model = make()
    many = torch.zeros(2000, 3, 8, 12, dtype=torch.uint8)
    torch.manual_seed(5)
    first = model.prefixes(many)
    torch.manual_seed(5)
    assert torch.equal(first, model.prefixes(many))
    assert not torch.equal(first, model.prefixes(many))
    assert set(first.tolist()) == set(range(1, PLACES))


def test_evaluation_draws_nothing_and_does_not_depend_on_the_batch() -> None:
    """Worst difference measured between one batch and single images: 2e-7 relative."""
    model = make().eval()
    several = images(6)
    assert (
        1
        <= int(model.prefixes(several).min())
        <= int(model.prefixes(several).max())
        < PLACES
    )
    assert len(set(model.prefixes(several).tolist())) > 1
    with torch.no_grad():
        whole = model(ImageBatch(images=several)).means["loss"]
        alone = [
            model(ImageBatch(images=image[None])).means["loss"]
            for image in several
        ]
        again = model(ImageBatch(images=several)).means["loss"]
    assert torch.equal(whole.total, again.total)
    assert float(whole.count) == sum(float(mean.count) for mean in alone)
    assert float(whole.total) == pytest.approx(
        sum(float(mean.total) for mean in alone), rel=1e-6
    )


def test_objectives_of_micro_batches_sum_to_the_whole() -> None:
    model = make().eval()
    several = images(6)
    with torch.no_grad():
        whole = model(ImageBatch(images=several)).objective
        parts = [
            model(ImageBatch(images=part)).objective
            for part in several.split(4)
        ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_at_use_every_patch_sees_every_patch() -> None:
    encoder = make().encoder.eval()
    pictures = images(2)
    changed = pictures.clone()
    changed[0, :, -1, -1] = 255 - changed[0, :, -1, -1]
    features = encoder(pictures)
    others = encoder(changed)
    assert ((features[0] - others[0]).abs().amax(-1) > 0).all()
    assert torch.equal(features[1], others[1])


def test_an_encoder_with_more_than_patches_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"class_token=False and encoder.num_registers=0"
    ):
        make(replace(FIXED, class_token=True))
    with pytest.raises(ConfigError, match="gives 1 patch"):
        make(replace(FIXED, image_size=2))


def test_parts_units_and_flops_cover_the_model() -> None:
    model = make()
    of_parts = {
        id(p) for part in model.parts().values() for p in part.parameters()
    }
    assert of_parts == {id(p) for p in model.parameters()}
    assert len(model.units()) == 2 + 2
    head = model.flops(ImageBatch(images=images(2)))["head"]
    assert head == 6 * 2 * 23 * (16 * 20 + 2 * 8 * 20**2 + 20 * 12)
