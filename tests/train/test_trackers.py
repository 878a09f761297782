"""Metrics go to TensorBoard too where a run asks for it."""

from pathlib import Path

import pytest
from worlds import make_world, text_only


def test_tensorboard_gets_what_metrics_jsonl_gets(tmp_path: Path) -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard",
    )
    config = text_only(
        make_world(tmp_path / "world"), steps=4, trackers=("tensorboard",)
    )
    config.build(folder=tmp_path / "run").fit()
    log = events.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    log.Reload()
    assert {"loss", "lr", "tokens_per_second", "validation"} <= set(
        log.Tags()["scalars"]
    )
    assert [event.step for event in log.Scalars("loss")] == [2, 4]
