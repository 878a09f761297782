"""`mm1 chat RUN [RUN2]`: loads the runs and serves them."""

import errno
import os
import secrets
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from mm1.config import UserError
from mm1.extras import needs_extra
from mm1.infer.quantization import Quantization
from mm1.loaded_run import load_runs

TOKEN = "MM1_CHAT_TOKEN"
"""The environment variable with the token; one on the command line would be in the list
of processes."""

MAX_CONNECTIONS = 64
"""At a time; the body of each may be in memory."""


def serve(
    folders: Sequence[Path],
    *,
    host: str,
    port: int,
    max_length: int,
    quantization: Quantization | None = None,
) -> None:
    """Serves until it is interrupted. Where the host is not a loopback name, a token is
    needed: that of the environment, or a new one, which is printed.

    Raises:
        ConfigError: two runs have the same name and path, or FastAPI is missing.
        UserError: the address is not to be had, or the token cannot be sent.
    """
    with needs_extra("chat", "the page of mm1 chat (--terminal does without)"):
        import uvicorn

        from mm1.chat.app import make_app
        from mm1.chat.guard import LOOPBACK
        from mm1.chat.prompts import Limits

    # an empty one would let everybody in
    token = os.environ.get(TOKEN) or None
    if token is None and host not in LOOPBACK:
        token = secrets.token_urlsafe(24)
    if token and not all("!" <= character <= "~" for character in token):
        raise UserError(
            f"{TOKEN} goes into a header of HTTP: use ASCII letters, digits and signs,"
            " without spaces"
        )
    with _listening(host, port) as bound:
        runs = load_runs(folders, quantization=quantization)
        app = make_app(runs, token=token, limits=Limits(max_length=max_length))
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{bound.getsockname()[1]}"
        fragment = f"#{quote(token, safe='')}" if token else ""
        print(f"{' and '.join(runs)}: {address}/{fragment}")
        print(
            f"OpenAI's API: {address}/v1" + (f", key {token}" if token else "")
        )
        sys.stdout.flush()
        config = uvicorn.Config(
            app, log_level="warning", limit_concurrency=MAX_CONNECTIONS
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[bound])


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the address: its IPv4 one, where the host has several.

    Raises:
        UserError: there is no such host here, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, *_, address = min(
            found, key=lambda each: each[0] != socket.AF_INET
        )
        return socket.create_server(address, family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise UserError(
            f"the host {host!r} has no address: use another --host"
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(
            f"cannot listen at {host}, port {port} ({reason.lower()}): use another"
            f" {'--host' if error.errno == errno.EADDRNOTAVAIL else '--port'}"
        ) from error
