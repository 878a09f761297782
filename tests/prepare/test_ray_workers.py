"""Preparing as Ray tasks on this machine: the same bytes; a task that dies or fails is
an error that names its file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from raw_files import pairs, write_lines, write_tar
from test_process_pool import Deadly, contents

from mm1.config import UserError
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare import ray_workers
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_pool import Report, WorkerDied, WorkerFailed
from mm1.prepare.ray_workers import in_ray_tasks
from mm1.prepare.sources.captions import Captions
from mm1.ray_jobs import RayJob, RayJobs


@dataclass(frozen=True)
class NumberedFile:
    number: int
    file: Path = Path("file")


def number_of(job: NumberedFile, report: Report) -> int:
    return job.number


def report_until_seen(job: NumberedFile, report: Report) -> int:
    """Reports until the file appears that says that the report was shown."""
    for record in range(1, 1000):
        report(record, 1)
        if job.file.exists():
            break
        time.sleep(0.1)
    return job.number


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
        check_progress(tmp_path)
    finally:
        ray.shutdown()


def check_progress(folder: Path) -> None:
    """Tasks tell how far they are in their files before they finish."""
    seen: dict[int, list[tuple[int, int]]] = {0: [], 1: []}

    def show(job: NumberedFile, records: int, dropped: int) -> None:
        seen[job.number].append((records, dropped))
        job.file.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_workers, "POLL_SECONDS", 0.2)
        jobs = [NumberedFile(number, folder / f"{number}") for number in seen]
        results = [
            result for _, result in in_ray_tasks(report_until_seen, jobs, show)
        ]
    assert sorted(results) == [0, 1]
    for counts in seen.values():
        assert counts
        assert counts == sorted(counts)
        assert all(dropped == 1 for _, dropped in counts)


class CountingRay(RayJobs):
    """A cluster of three CPUs that finishes the oldest job at each wait."""

    most = 0
    num_cpus = 3

    def __init__(self, *_: Any, **__: Any) -> None:
        self.open = 0

    def start_actor(self, cls: type) -> Any:
        return cls()

    def read(self, method: Any) -> dict[Any, Any]:
        return method()

    def submit(self, *arguments: Any) -> RayJob:
        self.open += 1
        CountingRay.most = max(CountingRay.most, self.open)
        _, function, job, board, _ = arguments
        board.note(job.number, 1, 0)
        return Finished(function, job)

    def wait(self, jobs: Sequence[RayJob], timeout: float) -> list[RayJob]:
        assert len(jobs) == self.open
        self.open -= 1
        return [jobs[0]]

    def shut_down(self) -> None:
        pass


class Finished(RayJob):
    def result(self) -> Any:
        function, job = self.ray, self.reference
        return function(job, lambda *_: None)


def test_a_bounded_number_of_files_is_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_workers, "RayJobs", CountingRay)
    monkeypatch.setattr(CountingRay, "most", 0)
    jobs = [NumberedFile(number) for number in range(100)]
    shown = []
    results = [
        result
        for _, result in in_ray_tasks(
            number_of, jobs, lambda job, *counts: shown.append(job.number)
        )
    ]
    assert results == list(range(100))
    assert CountingRay.most == 3 * ray_workers.WINDOW
    assert sorted(set(shown)) == list(range(1, 100))


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
