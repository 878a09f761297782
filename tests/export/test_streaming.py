"""Export and import hold a few tensors of a model at a time, never all of it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import write_run

from mm1.export import published_folder, run_folder
from mm1.export.export_run import export_run
from mm1.export.import_model import import_model
from mm1.nn.decoder import Decoder, LanguageModel
from mm1.runs.weights import RunWeights, load_model
from mm1.weight_files import SafetensorsWriter, write_sharded

SHARD_BYTES = 16_000_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


def anonymous_bytes() -> int:
    """What this process has allocated; pages of mapped files do not count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


def growth(
    patch: pytest.MonkeyPatch, work: Callable[[], Any], times: int = 2
) -> int:
    """Most bytes allocated as a tensor is written, beyond those before; the first time
    is not counted, as it imports modules and fills caches."""
    put = SafetensorsWriter.put
    found: list[int] = []

    def measured(*arguments: Any) -> None:
        found.append(anonymous_bytes())
        put(*arguments)

    patch.setattr(SafetensorsWriter, "put", measured)
    for _ in range(times):
        found.clear()
        before = anonymous_bytes()
        work()
    return max(found) - before


def test_memory_is_that_of_a_shard_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = Decoder.Config(depth=6, dim=512, num_heads=8, hidden_dim=1536)
    model = write_run(LanguageModel.Config(decoder=decoder), tmp_path / "run")
    total = sum(p.nbytes for p in model.parameters())
    assert total > 5 * SHARD_BYTES
    state = {n: t.clone() for n, t in model.state_dict().items()}
    del model
    for module in (published_folder, run_folder):
        monkeypatch.setattr(
            module,
            "write_sharded",
            lambda *a: write_sharded(*a, max_shard_bytes=SHARD_BYTES),
        )
    names = iter(range(100))

    def export() -> None:
        export_run(tmp_path / "run", tmp_path / f"out-{next(names)}")

    def back() -> None:
        import_model(str(tmp_path / "out-1"), tmp_path / f"back-{next(names)}")

    assert growth(monkeypatch, export) < 1.1 * SHARD_BYTES
    assert growth(monkeypatch, back) < 1.1 * SHARD_BYTES

    assert len(list((tmp_path / "out-1").glob("model-*"))) > 5
    weights = RunWeights(tmp_path / "back-3")
    assert len(list((tmp_path / "back-3").glob("model-*"))) > 5
    assert weights.names == state.keys()
    opened, _, _ = load_model(
        tmp_path / "back-3", torch.device("cpu"), weights=weights
    )
    for name, tensor in opened.state_dict().items():
        assert torch.equal(tensor, state[name])
        assert torch.equal(weights.tensor(name), state[name])
    export_run(tmp_path / "back-3", tmp_path / "again")
    for file in (tmp_path / "out-1").glob("model*"):
        assert (tmp_path / "again" / file.name).read_bytes() == (
            file.read_bytes()
        )
