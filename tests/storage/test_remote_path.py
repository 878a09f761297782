"""Paths at object stores, against an S3 server on loopback that goes wrong in many
ways."""

import copy
import io
import os
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import (
    BUCKET,
    ObjectStore,
    broken_halfway,
    expired,
    lost,
    overloaded,
    reset,
    running_store,
    slow,
)

from mm1.config import UserError
from mm1.files import atomic_path, remove, write_json
from mm1.storage import remote_file, requests
from mm1.storage.remote_file import RemoteReader
from mm1.storage.remote_path import RemotePath, as_path
from mm1.storage.requests import StorageError, StorageUnavailable


@pytest.fixture
def new_client() -> Iterator[None]:
    """For tests of what is read when a client is opened."""
    requests.forget_connections(f"s3://{BUCKET}")
    yield
    requests.forget_connections(f"s3://{BUCKET}")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with running_store(monkeypatch) as store:
        yield store


def test_a_url_is_a_path_with_the_methods_of_paths():
    path = as_path("s3://bucket/some/shard.tar.gz")
    assert isinstance(path, RemotePath)
    assert isinstance(path, Path)
    assert str(path) == f"{path}" == "s3://bucket/some/shard.tar.gz"
    assert str(path.parent / "b") == "s3://bucket/some/b"
    assert (path.name, path.stem) == ("shard.tar.gz", "shard.tar")
    assert path.suffixes == [".tar", ".gz"]
    assert str(path.with_name("x")) == "s3://bucket/some/x"
    assert str(path.relative_to(path.parent.parent)) == "some/shard.tar.gz"
    assert path.is_relative_to(as_path("s3://bucket/some"))
    assert path.absolute() == path.resolve() == path.expanduser() == path
    for again in (copy.deepcopy(path), pickle.loads(pickle.dumps(path))):
        assert again == path
        assert type(again) is RemotePath
        assert str(again) == str(path)
    assert as_path(path) is not None
    # What a parser of arguments makes of it.
    assert str(as_path(Path("gs://bucket/a"))) == "gs://bucket/a"


def test_a_local_path_stays_one():
    for name in ("a/b", "/a", ".", "s3", "C:/a", "a:b/c"):
        assert as_path(name) == Path(name)
        assert type(as_path(name)) is type(Path(name))
    for name in ("a", "s3", "gs/a", "az/s3", "s3:a", "."):
        path = Path(name)
        assert as_path(path) is path
    inside = as_path("s3://bucket/s3/a").relative_to(as_path("s3://bucket"))
    assert str(inside) == "s3/a"


@pytest.mark.parametrize("url", ["ftp://a/b", "s3://", "s3:///", "https://a/b"])
def test_other_urls_are_refused(url: str):
    with pytest.raises(StorageError, match=url):
        as_path(url)


def test_what_needs_a_local_file_says_so():
    path = as_path("s3://bucket/a.txt")
    with pytest.raises(StorageError, match=r"s3://bucket/a\.txt.*this machine"):
        open(path)  # noqa: SIM115
    with pytest.raises(StorageError, match="this machine"):
        os.makedirs(path)


def test_a_store_without_its_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        StorageError, match=r"gcsfs: pip install 'mm1\[cloud\]'"
    ):
        as_path("gs://bucket/a.txt").read_bytes()


def test_a_store_that_wants_an_account_says_which_variables(
    monkeypatch: pytest.MonkeyPatch,
):
    def refuse(*arguments: object, **options: object) -> None:
        raise ValueError("Must provide an account")

    monkeypatch.setattr("fsspec.filesystem", refuse)
    with pytest.raises(StorageError, match=r"az://.*account.*AZURE_STORAGE"):
        as_path("az://container/a.txt").read_bytes()


def test_files_and_folders(store: ObjectStore):
    folder = store.folder("deep/er")
    for name in ("b.txt", "a.txt", "sub/c.json"):
        (folder / name).write_text(name)
    (folder / "empty").mkdir(parents=True, exist_ok=True)
    assert [path.name for path in folder.iterdir()] == ["a.txt", "b.txt", "sub"]
    assert [path.is_dir() for path in folder.iterdir()] == [False, False, True]
    assert [path.name for path in folder.glob("*.txt")] == ["a.txt", "b.txt"]
    assert [str(p.relative_to(folder)) for p in folder.rglob("*")] == [
        *("a.txt", "b.txt", "sub", "sub/c.json")
    ]
    assert [path.name for path in folder.rglob("*.json")] == ["c.json"]
    assert folder.exists()
    assert folder.is_dir()
    assert folder.parent.parent.is_dir()
    assert not folder.is_file()
    assert (folder / "a.txt").is_file()
    assert not (folder / "a.tx").exists()
    assert (folder / "a.txt").stat().st_size == 5
    age = time.time() - (folder / "a.txt").stat().st_mtime
    assert abs(age) < 100
    (folder / "a.txt").unlink()
    (folder / "a.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"s3://data/deep/er/a\.txt"):
        (folder / "a.txt").unlink()
    remove(folder)
    assert not folder.exists()


def test_no_file_no_folder_no_bucket(store: ObjectStore):
    (store.folder("a.txt")).write_text("a")
    with pytest.raises(FileNotFoundError, match="no object s3://data/b"):
        store.folder("b").read_bytes()
    with pytest.raises(FileNotFoundError, match="s3://data/b"):
        list(store.folder("b").iterdir())
    with pytest.raises(NotADirectoryError, match=r"s3://data/a\.txt"):
        list(store.folder("a.txt").iterdir())
    for work in (RemotePath.read_bytes, RemotePath.stat):
        with pytest.raises(FileNotFoundError, match="no bucket s3://elsewhere"):
            work(RemotePath("s3://elsewhere/b"))
    with pytest.raises(FileNotFoundError, match="no bucket s3://elsewhere"):
        RemotePath("s3://elsewhere/b").write_text("b")
    with pytest.raises(IsADirectoryError):
        store.folder().read_bytes()
    store.folder("empty").touch()
    assert store.folder("empty").read_bytes() == b""


def test_a_file_read_in_any_order_is_what_was_written(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 1000)
    content = os.urandom(12_345)
    path = store.folder("some.bin")
    path.write_bytes(content)
    local = io.BytesIO(content)
    with path.open("rb") as file:
        for place, size in [
            (0, 10),
            (12_000, 500),
            (999, 2),
            (3, 9000),
            (0, -1),
        ]:
            assert file.seek(place) == local.seek(place)
            assert file.read(size) == local.read(size)
        assert file.seek(-7, os.SEEK_END) == local.seek(-7, os.SEEK_END)
        assert file.read() == local.read()
        assert file.read() == b""


def test_text_and_json(store: ObjectStore):
    path = store.folder("notes/é ü.txt")
    with path.open("w", encoding="utf-8") as file:
        file.write("eins\nzwei ß\n")
    with path.open(encoding="utf-8") as lines:
        assert list(lines) == ["eins\n", "zwei ß\n"]
    assert [each.name for each in path.parent.iterdir()] == ["é ü.txt"]
    write_json(path.with_name("a.json"), {"a": 1})
    assert path.with_name("a.json").read_text() == '{\n "a": 1\n}\n'
    with pytest.raises(StorageError, match="'a'"):
        path.open("a")
    with pytest.raises(StorageError, match="renamed"):
        path.rename(path)


def test_what_fails_while_it_is_written_is_never_put(store: ObjectStore):
    path = store.folder("a.bin")
    path.write_bytes(b"old")

    def write() -> None:
        with path.open("wb") as file:
            file.write(b"half of what is ne")
            raise ZeroDivisionError

    def write_aside() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of what is ne")
            raise ZeroDivisionError

    for work in (write, write_aside):
        with pytest.raises(ZeroDivisionError):
            work()
        assert path.read_bytes() == b"old"
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("GET", broken_halfway),
        ("GET", reset),
        ("GET", overloaded),
        ("GET", slow(0.1)),
        ("HEAD", reset),
        ("PUT", overloaded),
        ("PUT", reset),
    ],
)
def test_a_few_failures_are_made_good(
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    fault: object,
    method: str,
):
    monkeypatch.setenv("MM1_STORAGE_TIMEOUT", "0.8")
    content = os.urandom(100_000)
    store.fault(fault, "some.bin", method=method, times=2)  # type: ignore[arg-type]
    path = store.folder("some.bin")
    path.write_bytes(content)
    assert path.read_bytes() == content
    with atomic_path(path) as temporary:
        temporary.write_bytes(content[::-1])
    with path.open("rb") as file:
        assert file.read() == content[::-1]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (broken_halfway, r"some\.bin.*3 times in a row"),
        (reset, r"some\.bin.*3 times in a row"),
        (overloaded, r"some\.bin.*reduce your request rate.*3 times"),
        (slow(0.1), r"some\.bin.*too slow a one, within 0\.3 s, 3 times"),
    ],
)
def test_a_store_that_goes_on_failing_is_one_line(
    store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
    fault: object,
    message: str,
):
    monkeypatch.setenv("MM1_STORAGE_TIMEOUT", "0.3")
    monkeypatch.setenv("MM1_STORAGE_ATTEMPTS", "3")
    path = store.folder("some.bin")
    path.write_bytes(bytes(50_000))
    store.fault(fault, "some.bin")  # type: ignore[arg-type]
    store.requests.clear()
    with pytest.raises(StorageUnavailable, match=message) as caught:
        path.read_bytes()
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 69
    # The library may try again by itself where a connection was an old one.
    assert 3 <= store.requests.count("GET /data/some.bin") <= 6


def test_an_object_that_vanishes_while_it_is_read(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 1000)
    path = store.folder("some.bin")
    path.write_bytes(bytes(5000))
    store.fault(lost, "some.bin", skip=2)
    with path.open("rb", buffering=0) as file:
        assert len(file.read(1000)) == 1000
        with pytest.raises(FileNotFoundError, match=r"s3://data/some\.bin"):
            file.readall()


def test_credentials_that_expire_are_named_with_their_remedy(
    store: ObjectStore,
):
    path = store.folder("some.bin")
    path.write_bytes(b"1")
    store.fault(expired, method="GET|HEAD|PUT")
    for work in (
        path.read_bytes,
        path.exists,
        lambda: list(path.parent.iterdir()),
        lambda: path.write_bytes(b"2"),
    ):
        store.requests.clear()
        with pytest.raises(StorageError, match="AWS_SESSION_TOKEN") as caught:
            work()
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2
        assert len(store.requests) <= 4  # the library looks for the bucket


@pytest.mark.usefixtures("new_client")
def test_credentials_that_were_renewed_are_read_again(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    requests.forget_connections(f"s3://{BUCKET}")
    file = tmp_path / "credentials"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    text = "[default]\naws_access_key_id=OLD\naws_secret_access_key=b\n"
    file.write_text(text)
    path = store.folder("some.bin")
    path.write_bytes(b"1")
    keys = []

    def only_new(application, environ, start):
        keys.append("NEW" in environ["HTTP_AUTHORIZATION"])
        if not keys[-1]:
            return expired(application, environ, start)
        return application(environ, start)

    store.fault(only_new, method="GET|HEAD")
    file.write_text(text.replace("OLD", "NEW"))
    assert path.read_bytes() == b"1"
    assert keys[0] is False
    assert keys[-1] is True


@pytest.mark.usefixtures("new_client")
def test_no_credentials(store: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    requests.forget_connections(f"s3://{BUCKET}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(StorageError, match=r"no credentials were found.*AWS_"):
        store.folder("a").read_bytes()


@pytest.mark.usefixtures("new_client")
def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("s3fs")
    for variable, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MM1_STORAGE_ATTEMPTS": "2",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(requests, "FIRST_PAUSE", 0.01)
    with pytest.raises(StorageUnavailable, match="AWS_ENDPOINT_URL") as caught:
        RemotePath(f"s3://{BUCKET}/a").exists()
    assert "127.0.0.1:9" in str(caught.value)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "inf"])
def test_a_deadline_that_is_no_number(
    monkeypatch: pytest.MonkeyPatch, value: str
):
    monkeypatch.setenv("MM1_STORAGE_TIMEOUT", value)
    with pytest.raises(UserError, match=f"MM1_STORAGE_TIMEOUT={value}"):
        requests.timeout()


def test_a_block_on_its_way_is_asked_for_once(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 1000)
    path = store.folder("some.bin")
    path.write_bytes(bytes(10_000))
    store.requests.clear()
    with RemoteReader(str(path), 10_000) as file:
        while file.read(700):
            pass
    assert store.requests.count("GET /data/some.bin") == 10
