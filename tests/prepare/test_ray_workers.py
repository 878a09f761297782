"""Preparing as Ray tasks on this machine: the same bytes; a task that dies or fails is
an error that names its file."""

from pathlib import Path

import pytest
from raw_files import pairs, write_lines, write_tar
from test_process_pool import Deadly, contents

from mm1.config import UserError
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_pool import WorkerDied, WorkerFailed
from mm1.prepare.sources.captions import Captions


@pytest.mark.slow
def test_ray_tasks(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="pip install 'mm1[ray]'")
    (raw := tmp_path / "raw").mkdir()
    train_tokenizer(
        ["picture number one two three"],
        tokenizer := tmp_path / "tokenizer.json",
        vocab_size=300,
    )
    for number in range(4):
        write_tar(raw / f"{number}.tar", pairs(3, start=2 * number))
    filters = Filters.Config(duplicates=Duplicates.Config(exact=True))
    folder = str(Path(__file__).parent)  # where Deadly is imported from
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": f"{folder}:{folder}/.."}},
    )
    try:
        for on in ("processes", "ray"):
            prepare(
                Preparation.Config(
                    source=Captions.Config(), validation=0.3, filters=filters
                ),
                [raw],
                tmp_path / on,
                tokenizer,
                on=on,
            )
        assert contents(tmp_path / "ray") == contents(tmp_path / "processes")
        ends = {
            "die": (WorkerDied, r"die\.jsonl was lost in 3 attempts"),
            "fail": (WorkerFailed, r"(?s)fail\.jsonl:.*mistake in a source"),
            "refuse": (UserError, "wrong option"),
        }
        for word, (error, message) in ends.items():
            file = write_lines(
                tmp_path / f"{word}.jsonl", [{"text": "one"}, {"text": word}]
            )
            with pytest.raises(error, match=message):
                prepare(
                    Preparation.Config(source=Deadly.Config()),
                    [file],
                    tmp_path / word,
                    tokenizer,
                    on="ray",
                )
    finally:
        ray.shutdown()


def test_without_ray_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    train_tokenizer(
        ["one two"], tokenizer := tmp_path / "tokenizer.json", vocab_size=300
    )
    file = write_lines(tmp_path / "a.jsonl", [{"text": "one"}])
    with pytest.raises(UserError, match=r"mm1\[ray\]"):
        prepare("text", [file], tmp_path / "out", tokenizer, on="ray")
