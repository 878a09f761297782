"""Weights of 8 bits in a loaded run and in evaluation."""

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from mm1.config import ConfigError
from mm1.eval import evaluate as evaluation
from mm1.eval.benchmarks.pope import Pope
from mm1.loaded_run import load
from mm1.runs.description import read_config


@pytest.fixture
def torchao() -> Any:
    return pytest.importorskip("torchao", reason="pip install 'mm1[quantize]'")


def is_plain(module: nn.Module) -> bool:
    return all(type(p) is nn.Parameter for p in module.parameters())


def test_linear_maps_alone_are_rounded(torchao: Any, tmp_path: Path) -> None:
    run = tiny.write_run(tmp_path / "run")
    whole = load(run)
    small = load(run, quantization="int8")
    model: Any = small.trained.model
    assert not is_plain(model.encoder.blocks[0])
    assert not is_plain(model.decoder.blocks[-1].feed_forward.down)
    assert is_plain(model.decoder.embedding)
    assert is_plain(model.decoder.output)
    original: Any = whole.trained.model
    weight = original.decoder.blocks[0].attention.out.weight
    rounded = model.decoder.blocks[0].attention.out.weight.dequantize()
    step = weight.abs().amax(1, keepdim=True) / 127
    assert not torch.equal(rounded, weight)
    assert ((rounded - weight).abs() <= 0.52 * step).all()
    nats = [
        each.log_likelihood("red dog", tiny.picture(1), answer="two")
        for each in (whole, small)
    ]
    assert nats[0] != nats[1]
    assert nats[1] == pytest.approx(nats[0], rel=0.02)


def test_evaluation_keeps_such_scores_apart(
    torchao: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another version, so that in one folder neither reuses the other's."""
    seen = []

    def note(trained: Any, *_: Any, version: str) -> dict[str, Any]:
        seen.append((version, is_plain(trained.model)))
        return {}

    monkeypatch.setattr(evaluation, "evaluate", note)
    run = tiny.write_run(tmp_path / "run")
    config = read_config(run)
    config.benchmarks = {"pope": Pope.Config()}
    out = tmp_path / "scores"
    evaluation.evaluate_run(run, config, out=out)
    evaluation.evaluate_run(run, config, out=out, quantization="int8")
    (full, first), (small, second) = seen
    assert (small, first, second) == (f"{full} int8", True, False)


def test_scores_do_not_go_into_the_run(tmp_path: Path) -> None:
    run = tiny.write_run(tmp_path / "run")
    for out in (None, run):
        with pytest.raises(ConfigError, match=r"another folder .* \(out\)"):
            evaluation.evaluate_run(
                run, read_config(run), out=out, quantization="int8"
            )


def test_a_missing_library_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    monkeypatch.setitem(sys.modules, "torchao", None)
    run = tiny.write_run(tmp_path / "run")
    with pytest.raises(
        ConfigError, match=r"int8 quantization needs torchao: pip"
    ):
        load(run, quantization="int8")
