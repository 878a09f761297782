"""JSON files: damage is named with its remedy, and nothing is left half written."""

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mm1.config import ConfigError
from mm1.data.prepared.shards import read_manifest
from mm1.files import (
    append_jsonl,
    atomic_path,
    file_name,
    path_within,
    read_jsonl,
    read_object,
    unfinished_path,
    write_json,
    write_jsonl,
)
from mm1.runs.description import finished, read_config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"a": ',
            (
                r"x.json is not JSON \(Expecting value: line 1 column 7 \(char 6\)\):"
                r" get a fresh copy"
            ),
        ),
        ("", "x.json is not JSON"),
        ("\xff", "x.json is not JSON .'utf-8' codec"),
        ("[1]", "x.json holds a list, not an object: get a fresh copy"),
        (
            '{"a":' * 65 + "1" + "}" * 65,
            "x.json is nested deeper than 64 brackets: get a fresh copy",
        ),
        (
            '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
            "x.json is nested deeper than 64 brackets: get a fresh copy",
        ),
    ],
)
def test_a_damaged_file_is_named(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_object(path, "get a fresh copy")


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (read_manifest, "manifest.json"),
        (finished, "summary.json"),
        (read_config, "config.json"),
    ],
)
def test_what_reads_a_folder_says_what_is_to_be_done(
    read: Callable[[Path], Any], name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("{")
    with pytest.raises(
        ConfigError, match=rf"{name} is not JSON .*\): (mend|delete|prepare)"
    ):
        read(tmp_path)


def test_a_config_says_which_file_is_wrong(tmp_path: Path) -> None:
    for content, message in (
        ("{}", "has no 'class'"),
        ('{"class": "a:B"}', r"config.json: 'a:B' is outside mm1.* --trust a"),
        ('{"class": "mm1.no:B"}', r"config.json: no class at 'mm1.no:B'"),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match=message):
            read_config(tmp_path)


SEPARATORS = "a\u2028b\u2029c\x85d\x0ce\x0bf\x1cg\x1dh\x1ei\rj\r\nk\tl"


def test_lines_are_read_as_they_are_written(tmp_path: Path) -> None:
    records = [{"question": SEPARATORS}, {SEPARATORS: [SEPARATORS]}]
    path = tmp_path / "x.jsonl"
    write_jsonl(path, records)
    append_jsonl(path, records[0])
    with path.open("a") as file:
        file.write('{"question": "half')
    assert read_jsonl(path) == [*records, records[0]]


def test_what_is_nested_as_deep_as_allowed_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a":' * 64 + "1" + "}" * 64)
    assert list(read_object(tmp_path / "x.json", "")) == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../../escaped",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "c:b",
        "a\0b",
        "a\nb",
        "a\u2028b",
        "x" * 201,
        "\u00e9" * 101,
    ],
)
def test_a_name_that_is_no_file_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"benchmark .* name of a file"):
        file_name(name, "benchmark")


@pytest.mark.parametrize(
    "name", ["coco", "VQA v2.0", "\u6570\u636e-1", "..a", "x"]
)
def test_a_name_that_is_a_file_name(name: str) -> None:
    assert file_name(name, "benchmark") == name


def test_a_path_stays_within_its_folder(tmp_path: Path) -> None:
    for name in ("../a", "/etc/passwd", "a/../b", "a/..", ".", "", "a\0b"):
        with pytest.raises(ConfigError, match=r"the shard .* leads out of"):
            path_within(tmp_path, name, "the shard")
    for name in ("a", "a/b.arrow", "..a"):
        assert path_within(tmp_path, name, "the shard") == tmp_path / name


def test_a_write_that_fails_leaves_the_file_before_it(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_object(path, "") == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_a_file_or_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    unfinished_path(path).mkdir(parents=True)
    (unfinished_path(path) / "of a killed attempt").touch()
    with atomic_path(path) as temporary:
        temporary.mkdir()
        (temporary / "file").touch()
        assert not path.exists()
    assert [each.name for each in path.parent.iterdir()] == ["folder"]
    assert [each.name for each in path.iterdir()] == ["file"]


def test_an_error_leaves_neither_a_file_nor_a_temporary_one(
    tmp_path: Path,
) -> None:
    def write_half(make: Callable[[Path], object]) -> None:
        with atomic_path(tmp_path / "x") as temporary:
            make(temporary)
            raise RuntimeError("broken")

    for make in (Path.mkdir, Path.touch):
        with pytest.raises(RuntimeError, match="broken"):
            write_half(make)
        assert list(tmp_path.iterdir()) == []


class FullFile(io.FileIO):
    """Takes ten bytes, then there is no room."""

    def write(self, data: Any) -> int:
        if self.tell() >= 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(data)[:10])


def test_a_full_disk_is_named_with_the_file_and_costs_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.jsonl"
    append_jsonl(path, {"a": 1})
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda self, *_, **__: FullFile(str(self), "ab")
        )
        with pytest.raises(OSError, match=r"No space left .*x\.jsonl"):
            append_jsonl(path, {"a": 2}, {"a": "something long"})
    assert path.read_bytes() == before
    append_jsonl(path, {"a": 2}, {"a": 3})
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}, {"a": 3}]

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left .*y\.json'"):
            write_json(tmp_path / "y.json", {})
    assert [file.name for file in tmp_path.iterdir()] == ["x.jsonl"]


def test_lines_are_written_appended_and_read_but_for_a_half_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.jsonl"
    assert read_jsonl(path) == []
    write_jsonl(path, [{"a": 0.1}, {"ü": None}])
    append_jsonl(path, {"ö": 2})
    records = [{"a": 0.1}, {"ü": None}, {"ö": 2}]
    assert read_jsonl(path) == records
    before = path.read_bytes()
    write_jsonl(path, records)
    assert path.read_bytes() == before
    with path.open("a") as file:
        file.write('{"a": 1')
    assert read_jsonl(path) == records
