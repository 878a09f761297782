"""Interrupted preparations: finished files are kept and the same command resumes."""

import errno
from pathlib import Path
from typing import Any

import pytest
from raw_files import pairs, write_tar

from mm1.config import ConfigError
from mm1.data.tokenizer import train_tokenizer
from mm1.prepare import pipeline as module
from mm1.prepare.convert import ConvertJob, convert_file
from mm1.prepare.deduplicate import Duplicates
from mm1.prepare.filters import Filters
from mm1.prepare.pipeline import prepare
from mm1.prepare.preparation import Preparation
from mm1.prepare.sources.captions import Captions


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    train_tokenizer(["picture number one two three"], path, vocab_size=300)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Three tars of three samples; the last sample has no caption."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(3):
        write_tar(
            folder / f"{number}.tar",
            pairs(3, start=3 * number)[: 6 if number < 2 else 5],
        )
    return folder


class Reading:
    """`convert_file` that notes what it reads and fails at one file."""

    def __init__(self, at: str = "", end: BaseException | None = None) -> None:
        self.at = at
        self.end = end
        self.read = list[str]()

    def __call__(self, job: ConvertJob, report: Any) -> Any:
        self.read.append(job.file.name)
        if job.file.name == self.at and self.end is not None:
            raise self.end
        return convert_file(job, report)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize(
    "filters",
    [
        Filters.Config(),
        Filters.Config(duplicates=Duplicates.Config(exact=True)),
    ],
)
def test_the_same_command_resumes(
    filters: Filters.Config,
    raw: Path,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {"validation": 0.4, "filters": filters}
    prepare(
        Preparation.Config(source=Captions.Config(), **options),
        [raw],
        tmp_path / "straight",
        tokenizer,
    )
    for end, at in (
        (KeyboardInterrupt(), "1.tar"),
        (OSError(errno.ENOSPC, "No space left on device"), "2.tar"),
    ):
        monkeypatch.setattr(module, "convert_file", reading := Reading(at, end))
        with pytest.raises(type(end)):
            prepare(
                Preparation.Config(source=Captions.Config(), **options),
                [raw],
                tmp_path / "out",
                tokenizer,
            )
    assert "out.unfinished keeps 2 of 3 files" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert reading.read == ["1.tar", "2.tar"]
    monkeypatch.setattr(module, "convert_file", reading := Reading())
    prepare(
        Preparation.Config(source=Captions.Config(), **options),
        [raw],
        tmp_path / "out",
        tokenizer,
    )
    assert reading.read == ["2.tar"]
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "raw",
        "straight",
    ]


def test_without_a_finished_file_nothing_is_kept(
    raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "convert_file", Reading("0.tar", KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        prepare("captions", [raw], tmp_path / "out", tokenizer)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_an_interrupted_rewrite_resumes(
    raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = Filters.Config(duplicates=Duplicates.Config(exact=True))
    write_tar(raw / "3.tar", pairs(2))
    original = module.rewrite_file
    seen = []

    def rewrite(job: Any, report: Any) -> Any:
        seen.append(job.number)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(job, report)

    monkeypatch.setattr(module, "rewrite_file", rewrite)
    with pytest.raises(KeyboardInterrupt):
        prepare(
            Preparation.Config(source=Captions.Config(), filters=filters),
            [raw],
            tmp_path / "out",
            tokenizer,
        )
    monkeypatch.setattr(module, "convert_file", reading := Reading())
    manifest = prepare(
        Preparation.Config(source=Captions.Config(), filters=filters),
        [raw],
        tmp_path / "out",
        tokenizer,
    )
    assert not reading.read
    assert seen == [0, 1, 2, 2, 3]
    assert (manifest["records_in"], manifest["documents"]) == (11, 8)
    assert manifest["drops"] == {"no caption": 1, "duplicate": 2}


def test_another_plan_does_not_resume(
    raw: Path, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        module, "convert_file", Reading("1.tar", KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        prepare("captions", [raw], tmp_path / "out", tokenizer)
    with pytest.raises(
        ConfigError,
        match=(
            r"holds 1 finished files of another preparation \(different validation\)"
        ),
    ):
        prepare(
            Preparation.Config(source=Captions.Config(), validation=0.5),
            [raw],
            tmp_path / "out",
            tokenizer,
        )
    write_tar(raw / "2.tar", pairs(1))
    with pytest.raises(ConfigError, match="different inputs"):
        prepare("captions", [raw], tmp_path / "out", tokenizer)
