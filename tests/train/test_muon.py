"""Muon: against torch's, and which parameters it takes."""

import torch
from torch import nn
from worlds import decoder, encoder

from mm1.nn.connectors.average_pool import AveragePool
from mm1.nn.mm1 import MM1
from mm1.train.optimizers.muon import Muon, ShardedMuon


def test_it_does_what_torchs_does() -> None:
    """Bit for bit on unsharded tensors."""
    torch.manual_seed(0)
    ours = [
        nn.Parameter(torch.randn(shape)) for shape in ((7, 5), (3, 8), (6, 6))
    ]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    settings = {
        "lr": 1e-2,
        "weight_decay": 0.1,
        "adjust_lr_fn": "match_rms_adamw",
    }
    one = ShardedMuon(ours, **settings)
    two = torch.optim.Muon(theirs, **settings)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        one.step()
        two.step()
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


def test_hidden_matrices_are_muons_and_the_rest_is_adamws() -> None:
    config = MM1.Config(
        encoder=encoder(),
        connector=AveragePool.Config(num_tokens=4),
        decoder=decoder(),
    )
    model = config.build(vocab_size=30)
    muon, adamw = Muon.Config().build(model=model).optimizers
    names = {id(p): name for name, p in model.named_parameters()}
    taken, others = (
        {names[id(p)] for group in inner.param_groups for p in group["params"]}
        for inner in (muon, adamw)
    )
    assert isinstance(muon, ShardedMuon)
    assert isinstance(adamw, torch.optim.AdamW)
    assert taken | others == set(names.values())
    assert not taken & others
    assert all(
        name.endswith(".weight") and model.get_parameter(name).ndim == 2
        for name in taken
    )
    in_blocks = {name for name in names.values() if ".blocks." in name}
    matrices = {
        name for name in in_blocks if model.get_parameter(name).ndim == 2
    }
    assert matrices <= taken
    assert any("embed" in name for name in others)


def test_momentum_is_the_configs_and_rates_are_adamws() -> None:
    config = MM1.Config(
        encoder=encoder(),
        connector=AveragePool.Config(num_tokens=4),
        decoder=decoder(),
    )
    model = config.build(vocab_size=30)
    muon, adamw = (
        Muon.Config(momentum=0.7, betas=(0.8, 0.85))
        .build(model=model)
        .optimizers
    )
    for group in muon.param_groups:
        assert group["momentum"] == 0.7
        assert group["adjust_lr_fn"] == "match_rms_adamw"
    assert [group["betas"] for group in adamw.param_groups] == [
        (0.8, 0.85) for _ in adamw.param_groups
    ]
