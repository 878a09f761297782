"""Links are their own inverses, misfits are named, and files are written as the
safetensors library writes them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mm1.config import ConfigError
from mm1.export.mapping import (
    MeanRows,
    Reshaped,
    Rows,
    StackedExperts,
    check_export,
    check_import,
    joined,
    ours_layout,
    parted,
    same,
    theirs_layout,
    theirs_of,
)
from mm1.export.weights import Weights
from mm1.weight_files import Layout, write, write_sharded

LINKS = [
    *same({"norm": "n.weight"}),
    Rows(("qkv",), ("q", "k", "v"), (4, 2, 2)),
    StackedExperts(
        ("gate_up",), ("e.0.gate", "e.0.up", "e.1.gate", "e.1.up"), (3, 3)
    ),
    Reshaped(("patchify",), ("conv",), (5, 12), (5, 3, 2, 2)),
]


class Ours(nn.Module):
    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))


def module(**changed: tuple[int, ...] | None) -> Ours:
    """Our model, with other or more tensors."""
    shapes = {
        "norm": (4,),
        "qkv": (8, 6),
        "gate_up": (2, 6, 4),
        "patchify": (5, 12),
    }
    shapes |= changed
    return Ours(
        {name: shape for name, shape in shapes.items() if shape is not None}
    )


def theirs(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "n.weight": (4,),
        "q": (4, 6),
        "k": (2, 6),
        "v": (2, 6),
        "conv": (5, 3, 2, 2),
    }
    shapes |= {
        f"e.{i}.{name}": (3, 4) for i in range(2) for name in ("gate", "up")
    }
    return {
        name: torch.randn(shape, generator=draw)
        for name, shape in shapes.items()
    }


def write_theirs(folder: Path, **changed: Tensor | None) -> Weights:
    tensors = {
        name: tensor
        for name, tensor in (theirs() | changed).items()
        if tensor is not None
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return Weights(folder)


def test_links_are_what_they_say() -> None:
    found = theirs()
    pairs = (
        zip(link.ours, link.join([found[n] for n in link.theirs]), strict=True)
        for link in LINKS
    )
    ours = {name: tensor for pair in pairs for name, tensor in pair}
    assert torch.equal(
        ours["qkv"], torch.cat((found["q"], found["k"], found["v"]))
    )
    assert torch.equal(
        ours["gate_up"][1], torch.cat((found["e.1.gate"], found["e.1.up"]))
    )
    assert torch.equal(ours["patchify"][3], found["conv"][3].flatten())
    back = theirs_of(LINKS, ours)
    assert back.keys() == found.keys()
    assert all(
        torch.equal(back[name], tensor) for name, tensor in found.items()
    )


def test_there_and_back_through_files_is_the_same_to_the_byte(
    tmp_path: Path,
) -> None:
    weights = write_theirs(tmp_path)
    check_import(LINKS, module(), weights)
    (tmp_path / "ours").mkdir()
    write(
        tmp_path / "ours" / "model.safetensors",
        ours_layout(LINKS, weights),
        joined(LINKS, weights),
    )
    ours = Weights(tmp_path / "ours")
    (tmp_path / "back").mkdir()
    write_sharded(
        tmp_path / "back", theirs_layout(LINKS, ours), parted(LINKS, ours)
    )
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == (
        tmp_path / "model.safetensors"
    ).read_bytes()


def test_files_are_laid_out_as_the_library_lays_them_out(
    tmp_path: Path,
) -> None:
    tensors = {
        "b": torch.randn(3, 5, dtype=torch.bfloat16),
        "a": torch.randn(7).half(),
        "é": torch.tensor(2.0),
        "c": torch.randn(2, 3).double(),
        "d": torch.randn(4, 1),
        "empty": torch.zeros(0, 4),
    }
    save_file(
        tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"}
    )
    write(
        tmp_path / "ours.safetensors",
        {n: Layout.of(t) for n, t in tensors.items()},
        tensors.items(),
    )
    assert (tmp_path / "ours.safetensors").read_bytes() == (
        tmp_path / "theirs.safetensors"
    ).read_bytes()


def test_shards_hold_at_most_what_they_may_and_their_index_finds_all(
    tmp_path: Path,
) -> None:
    tensors = theirs()
    layouts = {name: Layout.of(tensor) for name, tensor in tensors.items()}
    write_sharded(tmp_path, layouts, tensors.items(), max_shard_bytes=150)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for tensor in tensors.values()
    )
    for file in set(index["weight_map"].values()):
        held = load_file(tmp_path / file)
        assert sum(t.nbytes for t in held.values()) <= 150 or len(held) == 1
        assert all(index["weight_map"][name] == file for name in held)
    read = Weights(tmp_path)
    assert all(
        torch.equal(read.tensor(name), tensor)
        for name, tensor in tensors.items()
    )


def test_new_rows_are_the_mean_of_the_others() -> None:
    table = torch.randn(6, 3).bfloat16()
    link = MeanRows(("ours",), ("theirs",), 2)
    (grown,) = link.join([table])
    assert grown.dtype == torch.bfloat16
    assert torch.equal(grown[6:], table.float().mean(0).bfloat16().expand(2, 3))
    assert torch.equal(link.split([grown])[0], table)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"k": None}, "missing k "),
        ({"lora_A": torch.ones(2)}, "not known to this family lora_A "),
        (
            {"v": torch.ones(3, 6)},
            r"v is \[3, 6\], the config asks for \[2, 6\]",
        ),
    ],
)
def test_an_import_names_what_does_not_fit(
    changed: dict[str, Tensor | None], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        check_import(LINKS, module(), write_theirs(tmp_path, **changed))


def test_unused_tensors_may_be_in_an_import(tmp_path: Path) -> None:
    weights = write_theirs(tmp_path, inv_freq=torch.ones(2))
    check_import(LINKS, module(), weights, unused="inv_.*")


@pytest.mark.parametrize("check", [check_import, check_export])
def test_a_tensor_of_ours_without_a_link_is_our_mistake(
    check: Callable[..., None], tmp_path: Path
) -> None:
    weights = write_theirs(tmp_path)
    with pytest.raises(RuntimeError, match="Ours differ in bias: every tensor"):
        check(LINKS, module(bias=(4,)), weights)
    with pytest.raises(RuntimeError, match="Ours differ in norm: every tensor"):
        check(LINKS, module(norm=None), weights)
    with pytest.raises(RuntimeError, match=r"Ours differ in .*norm"):
        check([*LINKS, LINKS[0]], module(), weights)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"qkv": None}, "missing qkv; left over nothing; misshapen nothing"),
        ({"scale": torch.ones(2)}, "missing nothing; left over scale; "),
        (
            {"norm": torch.ones(3)},
            r"misshapen norm is \[3\], the config asks for",
        ),
    ],
)
def test_an_export_names_what_does_not_fit(
    changed: dict[str, Tensor | None], named: str, tmp_path: Path
) -> None:
    """A run's weights that its config does not describe are never left out."""
    tensors = dict(module().state_dict()) | changed
    save_file(
        {
            name: tensor
            for name, tensor in tensors.items()
            if tensor is not None
        },
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ConfigError, match=named):
        check_export(LINKS, module(), Weights(tmp_path))


def test_parts_that_are_not_exported_may_be_in_a_run(tmp_path: Path) -> None:
    tensors = module(head=(2,)).state_dict()
    save_file(dict(tensors), tmp_path / "model.safetensors")
    check_export(LINKS, module(), Weights(tmp_path), unused="head")
