"""Parts of other runs on ranks that hold slices of them."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from nn.batches import DECODER, ENCODER
from ranks import on_ranks
from tiny import tokenizer
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from mm1 import dist
from mm1.config import ConfigError
from mm1.data.tokenizer import Tokenizer
from mm1.nn import initialization
from mm1.nn.connectors.c_abstractor import CAbstractor
from mm1.nn.experts import MoE
from mm1.nn.mm1 import MM1
from mm1.runs import weights
from mm1.runs.weights import load_part
from mm1.runs.weights_writer import write_weights
from mm1.train.build_model import build_on_meta, fill_weights

PARTS = ("encoder", "connector", "decoder")


def config(*, side: int = 8, experts: bool = False) -> MM1.Config:
    mixture = MoE.Config(num_experts=3, every=2) if experts else None
    return MM1.Config(
        encoder=replace(ENCODER, image_size=side, depth=1),
        connector=CAbstractor.Config(num_tokens=4, dim=10, depth=1),
        decoder=replace(DECODER, tied=False, experts=mixture),
    )


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """What another run has left: weights, tokenizer."""
    folder = tmp_path / "origin"
    folder.mkdir()
    torch.manual_seed(3)
    vocab_size = tokenizer(folder).vocab_size
    write_weights(folder, config().build(vocab_size=vocab_size).state_dict())
    return folder


def started(target: MM1.Config, origin: Path, *, sharded: bool) -> nn.Module:
    vocabulary = Tokenizer.Config(path=str(origin)).build()
    model = build_on_meta(
        target, vocab_size=vocabulary.vocab_size, lora=None, frozen=()
    )
    if sharded:
        for unit in model.units():
            fully_shard(unit)
        fully_shard(model)
    fill_weights(
        model,
        device=torch.device("cpu"),
        seed=1,
        init=dict.fromkeys(PARTS, str(origin)),
        tokenizer=vocabulary,
        lora=None,
        resumed=False,
    )
    return model


def compare(
    target: MM1.Config, origin: Path, expected: dict[str, Tensor]
) -> None:
    dist.start()
    weights.BLOCK = initialization.BLOCK = 100
    for name, value in started(target, origin, sharded=True).named_parameters():
        assert isinstance(value, DTensor)
        assert torch.equal(value.full_tensor(), expected[name]), name


def test_three_ranks_read_their_rows_of_what_one_reads(
    origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With interpolated positions, and experts from a dense decoder."""
    monkeypatch.setattr(initialization, "BLOCK", 100)
    target = config(side=12, experts=True)
    model: Any = started(target, origin, sharded=False)
    stored = weights.RunWeights(origin)
    name = "decoder.blocks.0.attention.qkv.weight"
    assert torch.equal(model.get_parameter(name), stored.tensor(name))
    dense = stored.tensor("decoder.blocks.1.feed_forward.down.weight")
    for expert in model.decoder.blocks[1].feed_forward.down:
        assert torch.equal(expert, dense)
    assert model.connector.position.shape[0] == 6
    expected = {n: p.detach() for n, p in model.named_parameters()}
    on_ranks(3, compare, target, origin, expected)


def refuse(origin: Path) -> None:
    """A NaN in a row that only the last rank holds."""
    dist.start()
    with pytest.raises(ConfigError, match=r"1 numbers of decoder\.output"):
        started(config(), origin, sharded=True)


@pytest.mark.slow
def test_a_number_that_one_rank_finds_stops_all(
    origin: Path, tmp_path: Path
) -> None:
    state = {
        name: weights.RunWeights(origin).tensor(name).clone()
        for name in weights.RunWeights(origin).names
    }
    state["decoder.output.weight"][-1, 2] = torch.nan
    broken = Path(shutil.copytree(origin, tmp_path / "broken"))
    write_weights(broken, state)
    on_ranks(2, refuse, broken)


def test_only_rows_that_are_held_are_read(
    origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read whole but what is adapted, here the positions."""
    read: dict[str, Any] = {}
    tensor = weights.RunWeights.tensor

    def noted(self: Any, name: str, slices: Any = None) -> Tensor:
        read[name] = slices
        return tensor(self, name, slices)

    monkeypatch.setattr(weights.RunWeights, "tensor", noted)
    vocabulary = Tokenizer.Config(path=str(origin)).build()
    model = config(side=12).build(vocab_size=vocabulary.vocab_size)
    load_part(model, "encoder", origin, tokenizer=vocabulary)
    whole = {name for name, slices in read.items() if slices is None}
    assert whole == {"encoder.position"}
    assert all(name.startswith("encoder.") for name in read)
