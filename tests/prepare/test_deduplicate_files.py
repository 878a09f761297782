"""De-duplication in stages: the verdicts of the comparison in one process, whatever the
tasks; resumed, refused and read by prepare."""

import json
import os
import random
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from raw_files import write_lines
from test_process_pool import Deadly, contents

from mm1 import cli
from mm1.config import ConfigError, UserError
from mm1.data.tokenizer import train_tokenizer
from mm1.overrides import default_config
from mm1.prepare import deduplicate_files
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.deduplicate_files import blocks, deduplicate
from mm1.prepare.filters import Filters, TextRules
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.process_pool import WorkerDied
from mm1.prepare.sources import Source
from mm1.prepare.sources.text import Texts
from mm1.prepare.verdicts import verdict_path

BOTH = Duplicates.Config(exact=True, near=0.7)
REAL = Path(
    os.environ.get(
        "MM1_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "real"
    )
)
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"no real samples at {REAL}; set MM1_REAL_DATA"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    train_tokenizer(["one two three four"], path, vocab_size=300)
    return path


def datatrove() -> None:
    pytest.importorskip("datatrove", reason="pip install 'mm1[datatrove]'")


def config_of(
    duplicates: Duplicates.Config, source: str = "text"
) -> Preparation.Config:
    return Preparation.Config(
        source=default_config(Source, source),
        filters=Filters.Config(duplicates=replace(duplicates)),
    )


def texts_with_copies(count: int, seed: int) -> list[str]:
    """Texts of 4 to 60 words; two thirds repeat an earlier one, whole, with other
    case, or with some words changed: chains of copies of copies, too."""
    draw = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        words = (
            draw.choice(texts).split()
            if texts and draw.random() < 0.66
            else [f"w{draw.randrange(999)}" for _ in range(draw.randint(4, 60))]
        )
        for _ in range(draw.choice([0, 0, 1, 1, 2, 4])):
            words[draw.randrange(len(words))] = f"w{draw.randrange(999)}"
        text = " ".join(words)
        texts.append(text.upper() if draw.random() < 0.2 else text)
    return texts


def write_files(folder: Path, texts: Sequence[str], files: int) -> list[Path]:
    """The texts over files of unequal size, with an empty record in each."""
    folder.mkdir()
    cuts = [0, *(len(texts) * (n + 1) ** 2 // files**2 for n in range(files))]
    return [
        write_lines(
            folder / f"{n}.jsonl",
            [
                {"text": ""},
                *({"text": t} for t in texts[cuts[n] : cuts[n + 1]]),
            ],
        )
        for n in range(files)
    ]


def dropped(out: Path) -> list[tuple[Any, ...]]:
    """The drops for being a copy, with what they are copies of."""
    lines = (out / "drops.jsonl").read_text().splitlines()
    drops = [json.loads(line) for line in lines]
    return sorted(
        (d["file"], d["key"], d["reason"], d["detail"])
        for d in drops
        if "duplicate" in d["reason"]
    )


def check_equal(
    duplicates: Duplicates.Config,
    paths: Sequence[Path],
    folder: Path,
    tokenizer: Path,
    *,
    source: str = "text",
    **options: Any,
) -> dict[str, Any]:
    """Both ways lead to the same drops and the same bytes; the manifest of the
    verdicts."""
    config = config_of(duplicates, source)
    manifest = deduplicate(config, paths, folder / "verdicts", **options)
    assert manifest is not None
    small = prepare(config, paths, folder / "small", tokenizer)
    config.filters.duplicates.verdicts = str(folder / "verdicts")
    large = prepare(config, paths, folder / "large", tokenizer)
    assert dropped(folder / "large") == dropped(folder / "small")
    for name in ("documents", "drops", "splits", "tokens", "images"):
        assert large[name] == small[name]
    assert contents(folder / "large" / "train") == contents(
        folder / "small" / "train"
    )
    assert manifest["verdicts"] == {
        reason: count
        for reason, count in small["drops"].items()
        if "duplicate" in reason
    }
    return manifest


@pytest.mark.parametrize(
    ("duplicates", "tasks"),
    [
        (BOTH, 3),
        (Duplicates.Config(exact=True), 1),
        (Duplicates.Config(near=0.5, near_words=3, near_hashes=64), 9),
    ],
    ids=["both", "exact", "near"],
)
def test_the_verdicts_are_those_of_one_process(
    duplicates: Duplicates.Config, tasks: int, tokenizer: Path, tmp_path: Path
) -> None:
    datatrove()
    files = write_files(tmp_path / "raw", texts_with_copies(400, tasks), 4)
    manifest = check_equal(duplicates, files, tmp_path, tokenizer, tasks=tasks)
    assert manifest["documents"] == 400
    assert sum(manifest["verdicts"].values()) > 80
    assert [
        path.name for path in sorted((tmp_path / "verdicts").iterdir())
    ] == [
        "manifest.json",
        "verdicts",
    ]


@needs_real
@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "paths", "near"),
    [
        ("text", ["text"], 0.05),
        ("captions", ["captions"], 0.4),
        ("interleaved", ["interleaved"], 0.3),
    ],
    ids=["text", "captions", "pages"],
)
def test_the_same_on_real_samples(
    source: str,
    paths: Sequence[str],
    near: float,
    tokenizer: Path,
    tmp_path: Path,
) -> None:
    """The similarity is low where real samples have no copies, so that there is
    something to drop."""
    datatrove()
    manifest = check_equal(
        Duplicates.Config(exact=True, near=near),
        [REAL / path for path in paths],
        tmp_path,
        tokenizer,
        source=source,
        tasks=3,
    )
    print(source, manifest["documents"], manifest["verdicts"])
    assert manifest["verdicts"]


def test_band_keys_find_what_the_index_finds() -> None:
    pytest.importorskip("datasketch", reason="pip install 'mm1[filters]'")
    import pyarrow as pa

    duplicates = BOTH.build()
    rng = np.random.default_rng(0)
    signatures = rng.integers(0, 3, (60, 128), dtype=np.uint32)
    signatures[rng.random((60, 128)) < 0.8] = 7
    hashes = rng.integers(0, 2**64, 60, dtype=np.uint64)
    hashes[5] = hashes[50]
    rows = [
        {"key": "", "document": h, "images": [], "signature": s.tolist()}
        for h, s in zip(hashes.tolist(), signatures, strict=True)
    ]
    batch = pa.RecordBatch.from_pylist(rows, duplicates.schema())
    keys = duplicates.band_keys(batch)
    assert keys.shape == (60, duplicates.num_band_keys, 2)
    shared = (keys[:, None] == keys[None]).all(-1)
    assert np.argwhere(np.triu(shared[..., 0], 1)).tolist() == [[5, 50]]
    index = duplicates.new_index()
    bands = np.stack(
        [
            (signatures[:, None, a:b] == signatures[None, :, a:b]).all(-1)
            for a, b in index.hashranges
        ],
        axis=-1,
    )
    assert bands[np.triu_indices(60, 1)].any()
    assert (shared[..., 1:] == bands).all()


@pytest.mark.parametrize("most", [1, 2, 5, 7, 100])
@pytest.mark.parametrize(
    "sizes", [[5], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0], [900, 1, 1, 900, 0]]
)
def test_blocks_hold_every_file_once(sizes: list[int], most: int) -> None:
    found = list(blocks(sizes, most))
    assert [n for block in found for n in block] == [*range(len(sizes))]
    assert all(found)
    assert len(found) <= most
    if len(set(sizes)) == 1 and sizes[0]:
        assert len(found) == min(most, len(sizes))


def test_a_large_cluster_is_announced(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its documents are compared in one task, which may take hours."""
    datatrove()
    texts = [*["a b c"] * 7, *["d e f"] * 3, "g h i"]
    files = write_files(tmp_path / "raw", texts, 2)
    exact = config_of(Duplicates.Config(exact=True))
    for least, words in ((8, ""), (7, "a cluster has 7 documents, which one")):
        monkeypatch.setattr(deduplicate_files, "LARGE_CLUSTER", least)
        manifest = deduplicate(exact, files, tmp_path / f"out{least}")
        assert manifest is not None
        assert manifest["largest_cluster"] == 7
        said = capsys.readouterr().err
        assert words in said
        assert ("a cluster has" in said) == bool(words)


def test_what_is_not_compared_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datatrove()
    (raw := tmp_path / "raw.jsonl").write_text(
        '{"text": "a b c"}\n{"text": "a b c"}\n{"text": ""}\n{"txt": "d"}\n'
    )
    exact = config_of(Duplicates.Config(exact=True))
    manifest = deduplicate(exact, [raw], tmp_path / "out")
    assert manifest is not None
    assert sum(manifest["unusable"].values()) == 2
    said = capsys.readouterr().err
    assert "1 duplicate among 2 documents; not compared: 2 records (" in said
    assert "1 empty text" in said
    strict = config_of(Duplicates.Config(exact=True))
    strict.filters.text = TextRules.Config(min_words=4)
    with pytest.raises(ConfigError, match="none of 4 records can be used: 2"):
        deduplicate(strict, [raw], tmp_path / "nothing")


def test_it_resumes_with_the_tasks_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datatrove()
    files = write_files(tmp_path / "raw", texts_with_copies(90, 5), 3)
    whole = tmp_path / "whole"
    deduplicate(config_of(BOTH), files, whole, tasks=3)
    out = tmp_path / "out"
    run = deduplicate_files.run_task
    calls: list[tuple[int, int]] = []

    def interrupted(job: Any, report: Any) -> Any:
        calls.append((job.stage, job.number))
        if len(calls) % 5 == 0:
            raise KeyboardInterrupt
        return run(job, report)

    monkeypatch.setattr(deduplicate_files, "run_task", interrupted)
    for _attempt in range(20):
        try:
            deduplicate(config_of(BOTH), files, out, tasks=3)
        except KeyboardInterrupt:
            continue
        break
    assert len(calls) > 15
    finished = [call for n, call in enumerate(calls, 1) if n % 5]
    assert len(finished) == len(set(finished))
    assert contents(out) == contents(whole)
    assert deduplicate(config_of(BOTH), files, out, tasks=3) is not None
    assert len(finished) == len([c for n, c in enumerate(calls, 1) if n % 5])


SBATCH = """#!{python}
import os, re, subprocess, sys
if os.path.basename(sys.argv[0]) == "squeue":
    print(open(os.environ["QUEUE"]).read())
    raise SystemExit
path = sys.argv[-1]
array = re.search(r"--array=0-([0-9]+)", open(path).read())
for task in range(int(array[1]) + 1 if array else 0):
    here = dict(os.environ, SLURM_ARRAY_TASK_ID=str(task), SLURM_NODELIST="here")
    subprocess.run(["bash", path], check=True, env=here, stdout=sys.stderr)
print("Submitted batch job 77")
"""


def stand_in_for_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `sbatch` that runs each job at once, and an `srun`; the queue's file."""
    (commands := folder / "commands").mkdir()
    python = Path(sys.executable)
    (commands / "sbatch").write_text(SBATCH.format(python=python))
    (commands / "squeue").write_text(SBATCH.format(python=python))
    (commands / "scontrol").write_text('#!/bin/sh\necho "$3"\n')
    (commands / "srun").write_text('#!/bin/sh\nshift 3; exec "$@"\n')
    for command in commands.iterdir():
        command.chmod(0o755)
    (queue := folder / "queue").write_text("")
    path = f"{commands}:{python.parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("QUEUE", str(queue))
    return queue


@pytest.mark.long
def test_on_slurm_the_same_command_submits_and_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a command that stands in for Slurm's and runs each job at once."""
    datatrove()
    queue = stand_in_for_slurm(tmp_path, monkeypatch)
    files = write_files(tmp_path / "raw", texts_with_copies(90, 5), 2)
    out = tmp_path / "out"
    slurm = {"partition": "cpu", "time": "1:00:00", "qos": "", "requeue": False}

    def again() -> Any:
        exact = config_of(Duplicates.Config(exact=True))
        return deduplicate(exact, files, out, tasks=2, on="slurm", slurm=slurm)

    assert again() is None
    logs = tmp_path / "out.unfinished" / "stages" / "logs"
    script = (logs / "buckets" / "launch_script.slurm").read_text()
    assert "#SBATCH --partition=cpu" in script
    assert "#SBATCH --job-name=mm1-buckets" in script
    (logs / "verdicts" / "completions" / "00001").unlink()
    queue.write_text("77_[1]\n")
    with pytest.raises(UserError, match=r"job 77_\[1\] has not ended"):
        again()
    queue.write_text("")
    assert again() is None
    manifest = again()
    whole = tmp_path / "whole"
    exact = config_of(Duplicates.Config(exact=True))
    assert manifest == deduplicate(exact, files, whole)
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "cpu", "time": "1:00"}, "sbatch"),
        ({"partition": "cpu"}, "time.*--ask partition=cpu time="),
        ({"partition": "cpu", "time": "1:00", "tiem": 1}, "tiem"),
    ],
)
def test_what_slurm_lacks_is_said(
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    datatrove()
    monkeypatch.setenv("PATH", str(tmp_path))
    files = write_files(tmp_path / "raw", ["one", "two"], 1)
    exact = config_of(Duplicates.Config(exact=True))
    with pytest.raises(UserError, match=f"--on slurm: .*{message}"):
        deduplicate(exact, files, tmp_path / "out", on="slurm", slurm=options)


@pytest.mark.long
def test_the_stages_run_on_executors_of_datatrove(tmp_path: Path) -> None:
    datatrove()
    from datatrove.executor import LocalPipelineExecutor

    from mm1.prepare.datatrove_stages import stages
    from mm1.prepare.datatrove_steps import Work
    from mm1.prepare.process_files import file_identity

    files = write_files(tmp_path / "raw", texts_with_copies(90, 5), 2)
    whole = tmp_path / "whole"
    deduplicate(config_of(BOTH), files, whole)
    work = Work(
        scratch=tmp_path / "out" / "stages",
        preparation=config_of(BOTH),
        files=tuple(files),
        inputs=tuple(file_identity(file) for file in files),
        blocks=(range(1), range(1, 2)),
    )
    for stage in stages(work):
        logs = str(tmp_path / "logs" / stage.name)
        LocalPipelineExecutor(
            stage.pipeline, stage.tasks, workers=1, logging_dir=logs
        ).run()
    assert contents(tmp_path / "out" / "verdicts") == contents(
        whole / "verdicts"
    )


@pytest.mark.long
def test_on_ray_the_verdicts_are_the_same(tmp_path: Path) -> None:
    datatrove()
    ray = pytest.importorskip("ray", reason="pip install 'mm1[ray]'")
    files = write_files(tmp_path / "raw", texts_with_copies(90, 5), 2)
    whole = tmp_path / "whole"
    deduplicate(config_of(BOTH), files, whole)
    path = str(Path(__file__).parents[2])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    try:
        deduplicate(config_of(BOTH), files, tmp_path / "out", on="ray")
    finally:
        ray.shutdown()
    assert contents(tmp_path / "out") == contents(whole)


def test_a_long_stage_says_that_it_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool of processes takes one that reports nothing for a time to hang."""
    datatrove()
    from datatrove.pipeline.base import PipelineStep

    from mm1.prepare import datatrove_stages
    from mm1.prepare.datatrove_stages import Stage, run_pipeline

    monkeypatch.setattr(datatrove_stages, "HEARTBEAT_SECONDS", 0.01)
    heard = threading.Event()

    class Waiting(PipelineStep):
        def run(
            self, data: Any = None, rank: int = 0, world_size: int = 1
        ) -> None:
            assert heard.wait(60)

    stage = Stage(name="long", pipeline=[Waiting()], tasks=1)
    assert run_pipeline(stage, 0, lambda *_: heard.set()) == (0, 0)


@pytest.mark.slow
def test_a_process_that_dies_is_named(tmp_path: Path) -> None:
    datatrove()
    file = write_lines(tmp_path / "die.jsonl", [{"text": "a"}, {"text": "die"}])
    other = write_lines(tmp_path / "other.jsonl", [{"text": "a"}])
    config = Preparation.Config(
        source=Deadly.Config(),
        filters=Filters.Config(duplicates=Duplicates.Config(exact=True)),
    )
    with pytest.raises(WorkerDied, match=r"read .*die\.jsonl was killed"):
        deduplicate(config, [file, other], tmp_path / "out", workers=2)


def test_another_plan_or_folder_is_refused(tmp_path: Path) -> None:
    datatrove()
    files = write_files(tmp_path / "raw", texts_with_copies(20, 1), 2)
    out = tmp_path / "out"
    deduplicate(config_of(BOTH), files, out)
    with pytest.raises(ConfigError, match="other inputs: delete it"):
        deduplicate(config_of(BOTH), files[:1], out)
    with pytest.raises(ConfigError, match="other filters: delete it"):
        deduplicate(config_of(Duplicates.Config(exact=True)), files, out)
    (other := tmp_path / "other").mkdir()
    (other / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not a folder of verdicts"):
        deduplicate(config_of(BOTH), files, other)
    other.rename(tmp_path / "new.unfinished")
    with pytest.raises(ConfigError, match="in the way"):
        deduplicate(config_of(BOTH), files, tmp_path / "new")
    with pytest.raises(ConfigError, match="--tasks 0: at least 1"):
        deduplicate(config_of(BOTH), files, tmp_path / "third", tasks=0)


@pytest.mark.parametrize(
    ("duplicates", "message"),
    [
        (Duplicates.Config(), "nothing to compare"),
        (
            Duplicates.Config(exact=True, verdicts="v"),
            "option of `mm1 prepare`",
        ),
        (
            Duplicates.Config(exact=True, max_documents_of_image=9),
            "max_documents_of_image is counted by `mm1 prepare` alone",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(
    duplicates: Duplicates.Config, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        deduplicate(config_of(duplicates), [], tmp_path / "out")


def test_without_datatrove_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = __import__("sys").modules
    for name in [each for each in modules if "datatrove" in each]:
        monkeypatch.delitem(modules, name)
    monkeypatch.setitem(modules, "datatrove", None)
    files = write_files(tmp_path / "raw", ["one", "two"], 1)
    with pytest.raises(UserError, match=r"mm1\[datatrove\]"):
        deduplicate(
            config_of(Duplicates.Config(exact=True)), files, tmp_path / "out"
        )


# --- prepare reads verdicts, whoever wrote them


def write_verdicts(
    folder: Path, config: Preparation.Config, files: Sequence[Path], *rows: Any
) -> str:
    from mm1 import config as configs
    from mm1.prepare.process_files import file_identity

    manifest = {
        "kind": "text",
        "config": configs.to_json(config.source),
        "filters": configs.to_json(config.filters),
        "inputs": [file_identity(file) for file in files],
        "verdicts": {"near-duplicate": len(rows)},
    }
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for number in range(len(files)):
        path = verdict_path(folder, number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(json.dumps(row) + "\n" for n, row in rows if n == number)
        )
    return str(folder)


def verdict(place: int, key: str) -> dict[str, Any]:
    return {
        "record": place,
        "key": key,
        "reason": "near-duplicate",
        "detail": "like one",
    }


def test_prepare_drops_what_verdicts_name(
    tokenizer: Path, tmp_path: Path
) -> None:
    files = write_files(tmp_path / "raw", [f"text {n}" for n in range(8)], 2)
    config = config_of(BOTH)
    config.filters.duplicates.verdicts = write_verdicts(
        tmp_path / "v",
        config_of(BOTH),
        files,
        (1, verdict(2, "3")),
        (1, verdict(4, "5")),
    )
    # One of the files is enough.
    manifest = prepare(config, files[1:], tmp_path / "out", tokenizer)
    assert manifest["drops"] == {"near-duplicate": 2, "empty text": 1}
    assert dropped(tmp_path / "out") == [
        (str(files[1]), key, "near-duplicate", "like one") for key in ("3", "5")
    ]
    assert manifest["documents"] == 4


def test_verdicts_on_other_records_are_refused(
    tokenizer: Path, tmp_path: Path
) -> None:
    files = write_files(tmp_path / "raw", [f"text {n}" for n in range(8)], 2)
    config = config_of(BOTH)

    def prepared(verdicts: str) -> Any:
        config.filters.duplicates.verdicts = verdicts
        return prepare(config, files, Path(f"{verdicts} out"), tokenizer)

    plain = config_of(BOTH)
    with pytest.raises(ConfigError, match="not a finished folder"):
        prepared(str(tmp_path / "none"))
    with pytest.raises(
        ConfigError, match=r"no verdicts on .*1\.jsonl: name the"
    ):
        prepared(write_verdicts(tmp_path / "a", plain, files[:1]))
    with pytest.raises(ConfigError, match=r"1.jsonl#3 is '9' in"):
        prepared(
            write_verdicts(tmp_path / "b", plain, files, (1, verdict(2, "9")))
        )
    with pytest.raises(ConfigError, match="ends before record '99'"):
        prepared(
            write_verdicts(tmp_path / "c", plain, files, (0, verdict(98, "99")))
        )
    whole = write_verdicts(tmp_path / "d", plain, files)
    verdict_path(Path(whole), 1).unlink()
    with pytest.raises(ConfigError, match=r"00001\.jsonl is missing"):
        prepared(whole)
    stricter = config_of(BOTH)
    stricter.filters.text = TextRules.Config(min_words=2)
    with pytest.raises(
        ConfigError,
        match=r"min_words=2, and not 0: give",
    ):
        prepared(write_verdicts(tmp_path / "e", stricter, files))
    last = write_verdicts(tmp_path / "f", plain, files)
    with files[0].open("a") as file:
        file.write('{"text": "late"}\n')
    with pytest.raises(ConfigError, match=r"0.jsonl has changed since"):
        prepared(last)


@pytest.mark.slow
def test_the_commands_work_together(
    tokenizer: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In two processes, as a user types it."""
    datatrove()
    write_files(tmp_path / "raw", texts_with_copies(60, 2), 2)
    words = [
        "text",
        str(tmp_path / "raw"),
        "filters.duplicates.exact=True",
        "filters.duplicates.near=0.7",
    ]
    verdicts = str(tmp_path / "verdicts")
    run(monkeypatch, "deduplicate", *words, "--out", verdicts, "--workers", "2")
    assert "near-duplicate among 60 documents" in capsys.readouterr().err
    run(
        monkeypatch,
        "prepare",
        *words,
        f"filters.duplicates.verdicts={verdicts}",
        *("--out", str(tmp_path / "out"), "--tokenizer", str(tokenizer)),
    )
    small = Preparation.Config(
        source=Texts.Config(), filters=Filters.Config(duplicates=BOTH)
    )
    prepare(small, [tmp_path / "raw"], tmp_path / "small", tokenizer)
    assert dropped(tmp_path / "out") == dropped(tmp_path / "small")


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["mm1", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
