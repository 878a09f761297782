"""Prepared folders at an object store: read through a cache of bounded size, checked,
and the same as local ones."""

import copy
import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import worlds
from object_store import (
    ObjectStore,
    broken_halfway,
    expired,
    lost,
    reset,
    running_store,
    slow,
)

from mm1.config import ConfigError
from mm1.data.prepared import memory_map
from mm1.data.prepared.columns import COLUMNS
from mm1.data.prepared.shards import Shards
from mm1.storage import cache, remote_file
from mm1.storage.cache import CachedObject, DamagedObject
from mm1.storage.requests import StorageError, StorageUnavailable


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions and the like, each file of them a shard of its own."""
    return worlds.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[ObjectStore]:
    monkeypatch.setenv("MM1_CACHE", str(tmp_path / "cache"))
    with running_store(monkeypatch) as store:
        yield store


def copies() -> list[Path]:
    """What the cache holds."""
    return [
        path
        for path in cache.cache_folder().iterdir()
        if path.suffix != ".lock"
    ]


def put(store: ObjectStore, name: str, content: bytes) -> CachedObject:
    store.folder(name).write_bytes(content)
    return CachedObject(
        str(store.folder(name)),
        len(content),
        hashlib.sha256(content).hexdigest(),
    )


def test_documents_at_a_store_are_those_of_the_folder(
    store: ObjectStore, world: Path
):
    for name in ("captions", "pages", "text"):
        local = Shards(world / name)
        far = Shards(store.upload(world / name, name), prefetch=True)
        assert len(far) == len(local)
        for number in range(len(local)):
            assert far.read(number) == local.read(number)
        for column in COLUMNS:
            assert np.array_equal(far.columns[column], local.columns[column])
    store.requests.clear()
    again = Shards(store.folder("captions"))
    assert again.read(0) == Shards(world / "captions").read(0)
    assert not [each for each in store.requests if "arrow" in each]
    assert not [each for each in store.requests if "npy" in each]


def test_a_shard_is_found_missing_when_the_folder_is_opened(
    store: ObjectStore, world: Path
):
    far = store.upload(world / "captions", "captions")
    shard = next((far / "train").glob("*.arrow"))
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ConfigError, match=rf"{shard} is missing.*copy"):
        Shards(far)
    shard.write_bytes(content[:-1])
    with pytest.raises(ConfigError, match=rf"{shard} has [\d,]+ bytes.*copy"):
        Shards(far)


def test_a_shard_that_vanishes_afterwards_is_named(
    store: ObjectStore, world: Path
):
    shards = Shards(store.upload(world / "captions", "captions"))
    store.fault(lost, ".arrow")
    with pytest.raises(ConfigError, match=r"s3://data/captions/train/.*resume"):
        shards.read(0)
    store.faults.clear()
    assert shards.read(0) == Shards(world / "captions").read(0)


def test_a_shard_of_other_content_is_not_read(store: ObjectStore, world: Path):
    far = store.upload(world / "captions", "captions")
    shard = next((far / "train").glob("*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedObject, match=rf"{shard}.*upload"):
        Shards(far).read(0)
    assert not [path for path in copies() if path.suffix == ".part"]


def test_credentials_that_end_midway_are_one_line_and_lose_nothing(
    store: ObjectStore, world: Path
):
    shards = Shards(store.upload(world / "captions", "captions"))
    store.fault(expired, ".arrow", method="GET|HEAD")
    with pytest.raises(StorageError, match=r"\.arrow.*expired.*AWS_"):
        shards.read(0)
    store.faults.clear()
    assert shards.read(0) == Shards(world / "captions").read(0)


def test_a_broken_download_is_gone_on_with(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 1000)
    monkeypatch.setenv("MM1_STORAGE_ATTEMPTS", "2")
    content = os.urandom(10_500)
    far = put(store, "some.bin", content)
    store.fault(reset, "some.bin", skip=6)
    with pytest.raises(StorageUnavailable, match=r"some\.bin"):
        far.fetch()
    (part,) = copies()
    assert 1000 < part.stat().st_size < 10_500
    store.faults.clear()
    store.fault(broken_halfway, "some.bin", times=3)
    monkeypatch.setenv("MM1_STORAGE_ATTEMPTS", "5")
    store.requests.clear()
    assert far.fetch().read_bytes() == content
    assert store.requests.count("GET /data/some.bin") < 10 + 3
    assert copies() == [far.path]


@pytest.mark.parametrize("left", [b"others' bytes", bytes(20_000)])
def test_what_is_left_of_something_else_is_not_taken(
    store: ObjectStore, left: bytes
):
    content = os.urandom(10_000)
    far = put(store, "some.bin", content)
    part = far.path.with_name(far.digest + ".part")
    part.parent.mkdir()
    part.write_bytes(left)
    assert far.fetch().read_bytes() == content


def test_the_cache_holds_no_more_than_it_may(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MM1_CACHE_GB", str(2500 / 1e9))
    monkeypatch.setattr(cache, "TOUCH_SECONDS", 0.0)
    all_far = [
        put(store, f"{number}.bin", os.urandom(1000)) for number in range(4)
    ]
    for far in all_far[:2]:
        far.fetch()
        time.sleep(0.02)
    assert all_far[0].is_cached()  # so it was used last
    time.sleep(0.02)
    assert not all_far[2].prefetch()  # which throws nothing out
    assert {far.path for far in all_far[:2]} == {*copies()}
    all_far[2].fetch()
    assert {all_far[0].path, all_far[2].path} == {*copies()}


def test_more_data_than_the_cache_holds_are_read_all_the_same(
    store: ObjectStore, world: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(memory_map, "MAX_EVICTED", 3)
    far = store.upload(world / "captions", "captions")
    sizes = [path.stat().st_size for path in (far / "train").iterdir()]
    monkeypatch.setenv("MM1_CACHE_GB", str((max(sizes) + 1) / 1e9))
    local = Shards(world / "captions")
    shards = Shards(far, prefetch=True)
    for number in (0, len(local) - 1, 1):
        assert shards.read(number) == local.read(number)
    assert cache.used_bytes() <= cache.cache_bytes()


def test_a_cache_that_cannot_be_written_is_named(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    far = put(store, "some.bin", b"1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MM1_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="MM1_CACHE"):
        far.fetch()


def test_those_that_want_the_same_fetch_it_once(store: ObjectStore):
    content = os.urandom(100_000)
    far = put(store, "some.bin", content)
    store.fault(slow(0.05), "some.bin")
    store.requests.clear()
    # Locks keep threads apart as they do processes.
    with ThreadPoolExecutor(3) as pool:
        all_far = [copy.copy(far) for _ in range(3)]
        paths = [*pool.map(CachedObject.fetch, all_far)]
    assert [path.read_bytes() for path in paths] == [content] * 3
    assert store.requests.count("GET /data/some.bin") == 1


def test_training_from_a_store_gives_the_same_weights(
    store: ObjectStore,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("MM1_CACHE_GB", "0.00001")
    far = store.upload(world, "world")
    store.fault(broken_halfway, ".arrow", times=2)
    store.fault(reset, ".arrow", skip=2, times=1)
    weights = []
    for where, name in ((str(world), "local"), (str(far), "far")):
        config = worlds.pretrain(world, steps=4, checkpoint_every=100)
        config.loader = replace(
            config.loader,
            sources={each: f"{where}/{each}" for each in worlds.WEIGHTS},
        )
        config.build(folder=tmp_path / name).fit()
        said = capsys.readouterr().err
        assert ("may hold 1e-05 GB: too little" in said) == (name == "far")
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
