"""Who may call the server, and how much they may send: checks that come before any
route, as ASGI middleware."""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.exceptions import HTTPException

from mm1.chat.protocol import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/", "/health")
"""Paths that need no token: the page asks for it, and has nothing of a run in it."""


class Guard:
    """Lets through requests that are small enough and have the token. Without a token
    only those for a loopback name pass: a page elsewhere that has its own name lead to
    this machine (DNS rebinding) stays outside. Nor does a page of another origin pass.
    """

    def __init__(self, app: App, *, token: str | None, max_body: int) -> None:
        self.app = app
        self.token = token
        self.max_body = max_body

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        if (error := self._refusal(scope["path"], headers)) is not None:
            await _send_error(send, error)
            return
        received = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise HTTPException(413, self._too_large())
            return message

        await self.app(scope, limited, send)

    def _refusal(self, path: str, headers: dict[str, str]) -> ApiError | None:
        host = headers.get("host", "")
        if self.token is None and _split(f"//{host}").hostname not in LOOPBACK:
            return ApiError(f"not for the host {host!r}", status=403)
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc != host:
            return ApiError(f"not for pages of {origin}", status=403)
        size = headers.get("content-length", "0")
        if not size.isdecimal() or int(size) > self.max_body:
            return ApiError(self._too_large(), status=413)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if (
            self.token is not None
            and path not in OPEN
            and not (
                scheme.lower() == "bearer"
                and hmac.compare_digest(given.encode(), self.token.encode())
            )
        ):
            return ApiError(
                "a token is needed: Authorization: Bearer TOKEN",
                status=401,
                code="invalid_api_key",
            )
        return None

    def _too_large(self) -> str:
        return f"the request is larger than {self.max_body >> 20} MB"


def _split(url: str) -> SplitResult:
    """Its parts, which are empty where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


async def _send_error(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # what was not read would be taken for the next request
        (b"connection", b"close"),
    ]
    start = {
        "type": "http.response.start",
        "status": error.status,
        "headers": headers,
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})
