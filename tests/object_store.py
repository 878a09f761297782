"""An object store on loopback for tests: moto's S3 server behind a front that breaks
connections, answers slowly, loses objects and lets credentials expire."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from mm1.storage import requests
from mm1.storage.remote_path import RemotePath

BUCKET = "data"
Answer = Iterable[bytes]
Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Answer]
Fault = Callable[[Application, dict[str, Any], Start], Answer]


class ObjectStore:
    """A server with one bucket; `fault` makes some of its answers wrong."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            create_backend_app,
        )
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *words: Any, **options: Any) -> None:
                pass

        self.application = DomainDispatcherApplication(create_backend_app)
        self.faults: list[tuple[Callable[[str, str], bool], Fault]] = []
        self.requests: list[str] = []
        """Method and path of each request, such as "GET /data/a.txt"."""
        self.server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet
        )
        self.thread = threading.Thread(
            target=self.server.serve_forever, daemon=True
        )
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.port}"

    def _answer(self, environ: dict[str, Any], start: Start) -> Answer:
        method = environ["REQUEST_METHOD"]
        path = environ["PATH_INFO"]
        self.requests.append(f"{method} {path}")
        for applies, fault in self.faults:
            if applies(method, path):
                return fault(self.application, environ, start)
        return self.application(environ, start)

    def folder(self, name: str = "") -> RemotePath:
        """A place in the bucket."""
        return RemotePath(f"s3://{BUCKET}/{name}")

    def upload(self, folder: Path, name: str) -> RemotePath:
        """Puts the files of a folder; returns where."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                target = self.folder(name) / path.relative_to(folder)
                target.write_bytes(path.read_bytes())
        return self.folder(name)

    def fault(
        self,
        fault: Fault,
        part: str = "",
        *,
        method: str = "GET",
        skip: int = 0,
        times: int = sys.maxsize,
    ) -> None:
        """Answers to requests whose path contains `part` go wrong: `times` of them,
        after the first `skip`."""
        seen = 0

        def applies(asked: str, path: str) -> bool:
            nonlocal seen
            if asked not in method.split("|") or part not in path:
                return False
            seen += 1
            return skip < seen <= skip + times

        self.faults.append((applies, fault))

    def empty(self) -> None:
        """As it was at first, with one empty bucket."""
        self.faults.clear()
        urlopen(Request(f"{self.url}/moto-api/reset", method="POST")).close()
        urlopen(Request(f"{self.url}/{BUCKET}", method="PUT")).close()
        self.requests.clear()


@cache
def _server() -> ObjectStore:
    return ObjectStore()  # starting and ending one takes half a second


def broken_halfway(
    application: Application, environ: dict[str, Any], start: Start
) -> Answer:
    """The connection closes after half of the content."""
    content = b"".join(application(environ, start))

    def half() -> Iterator[bytes]:
        yield content[: len(content) // 2]
        environ["werkzeug.socket"].close()
        raise ConnectionResetError

    return half()


def reset(
    application: Application, environ: dict[str, Any], start: Start
) -> Answer:
    """The connection closes without an answer."""
    import socket

    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError


def slow(seconds: float) -> Fault:
    """Content comes in ten pieces with pauses of `seconds`."""

    def fault(
        application: Application, environ: dict[str, Any], start: Start
    ) -> Answer:
        content = b"".join(application(environ, start))
        size = max(1, len(content) // 10)
        for place in range(0, len(content), size):
            time.sleep(seconds)
            yield content[place : place + size]

    return fault


def refusal(status: str, code: str, message: str) -> Fault:
    """An answer of S3's that is an error."""

    def fault(
        application: Application, environ: dict[str, Any], start: Start
    ) -> Answer:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        content = (
            "<?xml version='1.0' encoding='UTF-8'?>"
            f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        ).encode()
        start(
            status,
            [
                ("Content-Type", "application/xml"),
                ("Content-Length", str(len(content))),
            ],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    return fault


lost = refusal("404 Not Found", "NoSuchKey", "The specified key is gone.")
expired = refusal(
    "400 Bad Request", "ExpiredToken", "The provided token has expired."
)
overloaded = refusal(
    "503 Service Unavailable", "SlowDown", "Please reduce your request rate."
)


@contextmanager
def running_store(patch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """An empty store, whose address and credentials are in the environment."""
    for package in ("moto", "flask", "s3fs"):
        pytest.importorskip(
            package, reason=f"needs {package}: pip install 'mm1[dev]'"
        )
    store = _server()
    for variable, value in {
        "AWS_ENDPOINT_URL": store.url,
        "AWS_ACCESS_KEY_ID": "a key",
        "AWS_SECRET_ACCESS_KEY": "a secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MM1_STORAGE_TIMEOUT": "5",
    }.items():
        patch.setenv(variable, value)
    patch.setattr(requests, "FIRST_PAUSE", 0.01)
    store.empty()
    # The client is opened with these settings, and kept: it takes a third of a second.
    store.folder("a").exists()
    store.requests.clear()
    yield store
