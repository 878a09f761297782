"""A server of a tiny run in a thread, for the tests of the API and of the page."""

import base64
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from mm1.data.document import Image


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """The address of an app that is served on a free port."""
    config = uvicorn.Config(app, port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    (socket,) = server.servers[0].sockets
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def data_url(image: Image) -> str:
    content = base64.b64encode(image.data).decode()
    return f"data:image/png;base64,{content}"


def image_part(image: Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}
