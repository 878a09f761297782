"""The page and the routes that only it uses."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from mm1.chat.engine import Engine
from mm1.chat.inspection import (
    describe_attention,
    describe_run,
    describe_sequence,
    describe_shots,
)
from mm1.chat.prompts import Limits, check_length, conversation, find_run
from mm1.chat.protocol import PromptBody
from mm1.data.document import Document
from mm1.loaded_run import LoadedRun
from mm1.report.style import STYLE

PAGE = Path(__file__).with_name("page.html")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src data: blob:;"
        " style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none';"
        " form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Whatever a model or a picture says, the page loads nothing from elsewhere."""
MAX_SHOTS = 32


class AttentionBody(PromptBody):
    said: list[int] = Field(min_length=1)
    """The ids of the answer's tokens."""


def add_page_routes(
    app: FastAPI,
    runs: Mapping[str, LoadedRun],
    engine: Engine,
    limits: Limits,
) -> None:
    page = PAGE.read_text(encoding="utf-8").replace("/* STYLE */", STYLE)

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=HEADERS)

    @app.get("/mm1/runs")
    async def listed() -> list[dict[str, Any]]:
        return [describe_run(name, run) for name, run in runs.items()]

    @app.get("/mm1/shots")
    async def shots(
        model: str,
        benchmark: str,
        number: Annotated[int, Query(ge=0)] = 4,
        question: int = 0,
    ) -> dict[str, Any]:
        _, run = find_run(runs, model)
        with engine.enter():
            return await run_in_threadpool(
                describe_shots, run, benchmark, min(number, MAX_SHOTS), question
            )

    @app.post("/mm1/sequence")
    async def sequence(body: PromptBody) -> dict[str, Any]:
        with engine.enter():
            return await run_in_threadpool(_describe, body)

    def _describe(body: PromptBody) -> dict[str, Any]:
        run, document = _asked(body)
        return describe_sequence(run, document)

    def _asked(body: PromptBody) -> tuple[LoadedRun, Document]:
        _, run = find_run(runs, body.model)
        document, _ = conversation(body, run, limits)
        check_length(run, document, limits)
        return run, document

    @app.post("/mm1/attention")
    async def attention(body: AttentionBody) -> list[dict[str, Any]]:
        with engine.enter():
            run, document = await run_in_threadpool(_asked, body)
            return await engine.call(
                partial(describe_attention, run, document, body.said)
            )
