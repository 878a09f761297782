"""The end of a run: its weights are the same files whatever the number of ranks, they
are whole or not there, and no rank waits for a file inside a collective."""

import errno
import os
import shutil
import time
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import (
    DTensor,
    Replicate,
    Shard,
    distribute_tensor,
)
from worlds import make_world, sparse, text_only

from mm1 import dist, slow_work
from mm1.checksums import noted_checksums
from mm1.config import UserError
from mm1.nn.experts import MoE
from mm1.runs import weights_writer
from mm1.runs.weights import RunWeights
from mm1.runs.weights_writer import write_weights
from mm1.slow_work import slow_work as in_own_time
from mm1.slow_work import slow_work_on_rank_zero
from mm1.train import trainer
from mm1.train.layout import ParallelLayout
from mm1.train.lora import Lora
from mm1.train.trainer import Trainer
from mm1.weight_files import SafetensorsWriter

MESHES: dict[int, list[tuple[int, ...]]] = {
    1: [(1,)],
    2: [(2,)],
    4: [(4,), (2, 2)],
}
SHARD_BYTES = 900


def whole_state() -> dict[str, Tensor]:
    """Tensors that ranks share unevenly, or not at all."""
    draw = torch.Generator().manual_seed(3)
    shapes = {
        "table": (13, 8),
        "few rows": (2, 5),
        "experts": (3, 6, 4),
        "vector": (7,),
        "scalar": (),
        "nothing": (0, 4),
        "large": (40, 10),
    }
    state = {
        name: torch.randn(shape, generator=draw)
        for name, shape in shapes.items()
    }
    state["half"] = torch.randn(9, 4, generator=draw).bfloat16()
    return state


def write_on_meshes(folder: Path) -> None:
    """In each mesh each tensor is sharded in another way."""
    dist.start()
    for shape in MESHES[dist.world_size()]:
        mesh = init_device_mesh("cpu", shape)
        ways = [Shard(0), Shard(1), Replicate()]
        state: dict[str, Tensor] = {}
        for number, (name, tensor) in enumerate(whole_state().items()):
            chosen = [ways[(number + axis) % 3] for axis in range(len(shape))]
            fits = [
                way
                if not isinstance(way, Shard) or way.dim < tensor.ndim
                else Replicate()
                for way in chosen
            ]
            state[name] = (
                tensor
                if name == "vector"
                else distribute_tensor(tensor, mesh, fits)
            )
        state["tied"] = state["table"]
        for limit in (SHARD_BYTES, 1 << 20):
            out = folder / "x".join(map(str, shape)) / str(limit)
            found = write_weights(out, state, max_shard_bytes=limit)
            assert found == RunWeights(out).fingerprint


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_the_files_do_not_depend_on_ranks_or_placements(
    tmp_path: Path,
) -> None:
    for size in MESHES:
        on_ranks(size, write_on_meshes, tmp_path)
    one = contents(tmp_path / "1")
    assert len([name for name in one if name.startswith("900/model-")]) > 2
    for shape in ("2", "4", "2x2"):
        assert contents(tmp_path / shape) == one
    save_file(whole_state(), tmp_path / "one", metadata={"format": "pt"})
    single = tmp_path / "1" / str(1 << 20)
    assert (single / "model.safetensors").read_bytes() == (
        tmp_path / "one"
    ).read_bytes()
    assert noted_checksums(single).keys() == {"model.safetensors"}
    sharded = RunWeights(tmp_path / "1" / str(SHARD_BYTES))
    assert sharded.names == whole_state().keys()
    for name, tensor in whole_state().items():
        assert torch.equal(sharded.tensor(name), tensor)
    assert torch.equal(
        sharded.tensor("large", (slice(3, 9), slice(None, 2))),
        whole_state()["large"][3:9, :2],
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


LIMITS = {"shards": 9_000, "one file": 1 << 30}


def finish(config: Trainer.Config, folder: Path) -> None:
    """Resumed at its last step, a run writes its weights again."""
    original = trainer.write_weights
    for name, limit in LIMITS.items():
        write = partial(write_weights, max_shard_bytes=limit)
        trainer.write_weights = write  # type: ignore[assignment]
        config.build(folder=folder / name, resume=True).fit()
    trainer.write_weights = original


def weights_of(folder: Path) -> dict[str, Any]:
    """Files and their checksums."""
    sums = noted_checksums(folder)
    return {
        path.name: (path.read_bytes(), sums[path.name])
        for path in folder.glob("model*")
    }


LAYOUTS = {
    "experts": ParallelLayout.Config(replicate=2, experts=2),
    "tensor": ParallelLayout.Config(tensor=2),
    "adapters": ParallelLayout.Config(),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYOUTS)
def test_four_ranks_leave_what_one_leaves(
    kind: str, world: Path, tmp_path: Path
) -> None:
    """All from the same checkpoint of the last step, in shards, then in one file."""
    config: Trainer.Config = text_only(world, steps=1)
    if kind == "adapters":
        pytest.importorskip("peft", reason="the extra `lora` is not installed")
        config.lora = Lora.Config(rank=4)
    if kind == "experts":
        config = sparse(world, steps=1)
        config.model.decoder.experts = MoE.Config(num_experts=4)
    config.loader.micro_batch_size = 1
    begun = tmp_path / "begun"
    config.build(folder=begun).fit()
    for size in ("1", "4"):
        for name in LIMITS:
            shutil.copytree(begun, tmp_path / size / name)
    finish(config, tmp_path / "1")
    config.layout = LAYOUTS[kind]
    on_ranks(4, finish, config, tmp_path / "4")
    for name in LIMITS:
        one = weights_of(tmp_path / "1" / name)
        assert weights_of(tmp_path / "4" / name) == one
        assert len(one) > 3 or one == weights_of(begun)


def outlast(folder: Path) -> None:
    """Rank 0 works for three times as long as a collective may wait."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=1.5))
    dist.start()

    def work(tick: slow_work.Tick) -> str:
        for _ in range(45):
            time.sleep(0.1)
            tick()
        return "done"

    assert slow_work_on_rank_zero(work) == "done"


def hang(folder: Path) -> None:
    dist.start()
    assert dist.peers is not None
    dist.peers.patience = 1.0
    if dist.rank() == 0:
        in_own_time(lambda tick: time.sleep(3))
        return
    with pytest.raises(UserError, match="rank 0 did not get on with files"):
        in_own_time(lambda tick: None)


def fail(folder: Path) -> None:
    """Rank 1 cannot write its file: both ranks say why, and leave nothing."""
    dist.start()
    state = whole_state()
    put = SafetensorsWriter.put

    def full(self: SafetensorsWriter, name: str, *rest: Any) -> None:
        if dist.rank() == 1 and name == "large":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        put(self, name, *rest)

    SafetensorsWriter.put = full  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"could not be written \(No space"):
        write_weights(folder, state, max_shard_bytes=SHARD_BYTES)
    SafetensorsWriter.put = put  # type: ignore[method-assign]
    dist.barrier()
    assert list(folder.iterdir()) == []
    dist.barrier()
    write_weights(folder, state, max_shard_bytes=SHARD_BYTES)


def peak(folder: Path) -> None:
    """Eight tensors of 40 MB, which malloc gives back at once (beyond 32 MiB). Two are
    there as one is gathered, and two of the one before until gloo's thread lets go of
    them."""
    dist.start()
    mesh = init_device_mesh("cpu", (2,))
    state = {
        str(n): DTensor.from_local(torch.ones(2500, 2000), mesh, [Shard(0)])
        for n in range(8)
    }
    weights_writer.BATCH_BYTES = 1
    write_weights(folder / "first", state)  # of modules and connections
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = most_bytes()
    write_weights(folder / "second", state)
    grown = most_bytes() - before
    assert grown < 5 * 40_000_000, f"{grown:,} bytes"


def most_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("function", [outlast, hang, fail, peak])
def test_ranks_that_wait_for_files(function: Any, tmp_path: Path) -> None:
    on_ranks(2, function, tmp_path / "run")


def test_what_is_half_written_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each rename: there are the weights of before, those of now, or none,
    and writing again mends it."""
    state = whole_state()
    older = {name: tensor + 1 for name, tensor in state.items()}
    write = partial(write_weights, max_shard_bytes=SHARD_BYTES)
    write(tmp_path / "new", state)
    expected = contents(tmp_path / "new")
    fingerprints = {RunWeights(tmp_path / "new").fingerprint}

    class Killed(BaseException):
        pass

    rename = os.replace
    for before in (SHARD_BYTES, 300, 1 << 20):
        for number in range(100):
            folder = tmp_path / f"run-{before}-{number}"
            write_weights(folder, older, max_shard_bytes=before)
            known = fingerprints | {RunWeights(folder).fingerprint}
            left = iter(range(number))

            def kill(*paths: Any) -> None:
                if next(left, None) is None:  # noqa: B023
                    raise Killed
                rename(*paths)

            with monkeypatch.context() as inner:
                inner.setattr(os, "replace", kill)
                inner.setattr("mm1.files.remove", lambda path: None)
                try:
                    write(folder, state)
                except Killed:
                    killed = True
                else:
                    killed = False
            with suppress(FileNotFoundError):
                assert RunWeights(folder).fingerprint in known
            write(folder, state)
            found = contents(folder)
            sums = found.pop("checksums.json")
            assert found == {
                name: data
                for name, data in expected.items()
                if name != "checksums.json"
            }
            assert sums
            if not killed:
                break
        assert number > 4
