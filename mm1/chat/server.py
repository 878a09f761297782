"""`mm1 chat RUN [RUN2]`: loads the runs and serves them."""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

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
    runs = load_runs(folders, quantization=quantization)
    app = make_app(runs, token=token, limits=Limits(max_length=max_length))
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    print(f"{' and '.join(runs)}: {address}/" + (f"#{token}" if token else ""))
    print(f"OpenAI's API: {address}/v1" + (f", key {token}" if token else ""))
    sys.stdout.flush()
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        limit_concurrency=MAX_CONNECTIONS,
    )
