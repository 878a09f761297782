"""Lines of metrics on a disk that is full for a while."""

import errno
import os
from pathlib import Path

import pytest
from worlds import text_only

from mm1 import dist
from mm1.files import read_jsonl
from mm1.runs import metrics_log
from mm1.runs.metrics_log import MetricsLog


def test_lines_wait_for_room_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(dist, "say", said.append)
    log = MetricsLog(tmp_path, text_only(tmp_path), resume_step=0)
    log.write_metrics(1, {"loss": 3.0})

    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(metrics_log, "append_jsonl", full)
        for step in (2, 3):
            log.write_metrics(step, {"loss": 2.0})
            log.write_speed(step, {"seconds": 1.0})
        with pytest.raises(OSError, match="No space left"):
            log.flush()
    assert [line.partition(" (No space left")[0] for line in said] == [
        f"{tmp_path / name} could not be written"
        for name in ("metrics.jsonl", "speed.jsonl")
    ]
    log.write_metrics(4, {"loss": 1.0})
    steps = {
        name: [line["step"] for line in read_jsonl(tmp_path / name)]
        for name in ("metrics.jsonl", "speed.jsonl")
    }
    assert steps == {"metrics.jsonl": [1, 2, 3, 4], "speed.jsonl": [2, 3]}
