"""Checksums: damage is found and named, whatever the moment of a kill."""

import json
import tracemalloc
from pathlib import Path

import pytest

from mm1 import checksums, files
from mm1.checksums import (
    CHECKSUMS,
    check_file,
    checked_path,
    checksum,
    find_damage,
    noted_checksums,
    write_checksums,
)
from mm1.config import ConfigError
from mm1.runs.weights import weights_fingerprint


def write(path: Path, content: str) -> None:
    with checked_path(path) as temporary:
        temporary.write_text(content)


def test_xxh3_of_a_known_text(tmp_path: Path) -> None:
    """The value of `xxhsum -H2` for these bytes."""
    (tmp_path / "x").write_bytes(b"abc")
    assert checksum(tmp_path / "x") == {
        "bytes": 3,
        "xxh3_128": "06b05ab6733a618578af5f94892f3950",
    }


def test_a_file_is_read_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 40_000)
    whole = checksum(path)
    tracemalloc.start()
    weights_fingerprint(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * checksums.BLOCK_BYTES < path.stat().st_size
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 1000)
    assert checksum(path) == whole


def test_what_was_written_is_told_from_what_was_not(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    check_file(path, "")  # nothing is noted, so nothing is checked
    write(path, "one")
    check_file(path, "")
    path.write_text("two")
    with pytest.raises(
        ConfigError,
        match=r"x.json is damaged: its bytes .*; take a copy .*delete",
    ):
        check_file(path, "take a copy")
    path.write_text("three")
    with pytest.raises(ConfigError, match=r"x.json has 5 bytes, not 3"):
        check_file(path, "take a copy")
    path.unlink()
    with pytest.raises(ConfigError, match=r"x.json cannot be read \(No such"):
        check_file(path, "take a copy")
    write(path, "two")
    check_file(path, "")
    path.with_name(CHECKSUMS).unlink()
    path.write_text("edited")
    check_file(path, "")


def test_a_kill_at_any_moment_leaves_a_file_that_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the note and the rename, several times in a row."""
    path = tmp_path / "config.json"
    write(path, "first")

    class Killed(BaseException):
        pass

    rename = files.durable_rename

    def killed(source: Path, target: Path) -> None:
        if target == path:
            raise Killed
        rename(source, target)

    for content in ("second", "third", "second", "first"):
        with monkeypatch.context() as patch:
            patch.setattr(files, "durable_rename", killed)
            with pytest.raises(Killed):
                write(path, content)
        check_file(path, "")
        assert path.read_text() == "first"
    write(path, "second")
    check_file(path, "")
    write(path, "third")
    check_file(path, "")
    # The one that was replaced is noted no longer than one write.
    path.write_text("first")
    with pytest.raises(ConfigError, match="damaged"):
        check_file(path, "")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 3}'])
def test_a_damaged_list_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / CHECKSUMS).write_text(content)
    with pytest.raises(ConfigError, match=r"checksums\.json .*delete it"):
        noted_checksums(tmp_path)


def test_every_file_of_a_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    write_checksums(
        tmp_path, {name: checksum(tmp_path / name) for name in ("a", "b")}
    )
    noted = noted_checksums(tmp_path)
    assert json.loads((tmp_path / CHECKSUMS).read_text()) == noted
    assert find_damage(tmp_path / "a", noted) == ""
    (tmp_path / "b").write_text("c")
    assert find_damage(tmp_path / "b", noted).startswith("b is damaged")
