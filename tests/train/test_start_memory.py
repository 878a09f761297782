"""What starting takes of real memory: a rank's share of the model and one tensor."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from nn.batches import DECODER
from ranks import on_ranks
from tiny import tokenizer
from torch.distributed.tensor import DTensor

from mm1 import dist
from mm1.data.tokenizer import Tokenizer
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.nn.experts import MoE
from mm1.train.build_model import build_on_meta, fill_weights
from mm1.train.layout import ParallelLayout
from mm1.train.parallel import parallelize


def memory(name: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(name)


def start(
    decoder: Decoder.Config, layout: ParallelLayout, vocabulary: Tokenizer
) -> LanguageModel:
    model = build_on_meta(
        LanguageModel.Config(decoder=decoder),
        vocab_size=vocabulary.vocab_size,
        lora=None,
        frozen=(),
    )
    parallelize(
        model,
        layout,
        precision="fp32",
        activation_checkpointing="none",
        compile_units=False,
    )
    fill_weights(
        model,
        device=layout.device,
        seed=3,
        init={},
        tokenizer=vocabulary,
        lora=None,
        resumed=False,
    )
    assert isinstance(model, LanguageModel)
    return model


def measure_each(
    cases: Sequence[tuple[Decoder.Config, ParallelLayout.Config]], folder: Path
) -> None:
    device = dist.start()
    vocabulary = Tokenizer.Config(path=str(folder)).build()
    tiny = ParallelLayout.Config().build(device)
    start(DECODER, tiny, vocabulary)  # imports what it needs
    for decoder, layout in cases:
        model = LanguageModel.Config(decoder=decoder)
        measure(decoder, layout.build(device, model), vocabulary)


def measure(
    decoder: Decoder.Config, built: ParallelLayout, vocabulary: Tokenizer
) -> None:
    """Fails where this rank's peak is beyond its share, the largest tensor and 10%."""
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    started = start(decoder, built, vocabulary)
    peak = memory("VmHWM") - before
    share = 0
    largest = 0
    for parameter in started.parameters():
        assert isinstance(parameter, DTensor)
        share = share + parameter.to_local().nbytes
        largest = max(largest, parameter.numel() * parameter.itemsize)
    total = sum(p.numel() * p.itemsize for p in started.parameters())
    print(
        f"rank {dist.rank()}: {total / 2**20:,.0f} MiB in all, share"
        f" {share / 2**20:,.0f}, largest {largest / 2**20:,.0f}, peak"
        f" {peak / 2**20:,.0f}",
        flush=True,
    )
    assert share <= peak <= 1.1 * (share + largest) < total


SMALL = Decoder.Config(
    depth=10, dim=1000, num_heads=10, hidden_dim=2700, tied=False
)
MIXTURE = Decoder.Config(
    depth=6,
    dim=456,
    num_heads=6,
    hidden_dim=1400,
    experts=MoE.Config(num_experts=8, every=1),
)
BILLION = Decoder.Config(
    depth=23, dim=1848, num_heads=14, hidden_dim=5100, tied=False
)
"""About 1e9 parameters, of widths that no power of 2 divides."""


CASES = {
    "dense and sparse": [
        (SMALL, ParallelLayout.Config()),
        (MIXTURE, ParallelLayout.Config(experts=2)),
    ],
    "a billion": [(BILLION, ParallelLayout.Config())],
}


@pytest.mark.parametrize(
    "name",
    ["dense and sparse", pytest.param("a billion", marks=pytest.mark.long)],
)
def test_a_rank_starts_in_its_share_and_one_tensor(
    name: str, tmp_path: Path
) -> None:
    tokenizer(tmp_path)
    on_ranks(2, measure_each, CASES[name], tmp_path)
