"""The routes: OpenAI's `/v1/...`, `/health`, and what the page needs."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from mm1.chat.engine import Engine
from mm1.chat.guard import Guard
from mm1.chat.page import add_page_routes
from mm1.chat.prompts import (
    Generation,
    Limits,
    as_api_error,
    conversation,
    find_run,
    generation,
    marked_prompt,
)
from mm1.chat.protocol import (
    ApiError,
    ChatBody,
    CompletionBody,
    GenerationBody,
)
from mm1.chat.replies import DONE, Reply, event
from mm1.chat.validation import invalid_request
from mm1.config import UserError
from mm1.infer.stream import StreamedToken
from mm1.loaded_run import LoadedRun

LOOK_EVERY = 0.5
"""Seconds between looks at whether a client is still there."""

log = logging.getLogger("mm1.chat")


def make_app(
    runs: Mapping[str, LoadedRun],
    *,
    token: str | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The server of some runs, by name.

    Args:
        token: what every request must bring; None: requests must be for a loopback
            name.
    """
    limits = limits or Limits()
    engine = Engine(limits.max_in_flight)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.stop()

    app = FastAPI(
        title="mm1 chat", docs_url=None, redoc_url=None, lifespan=lifespan
    )
    app.add_middleware(Guard, token=token, max_body=limits.max_body)  # type: ignore[arg-type]
    _add_error_handlers(app)
    _add_openai_routes(app, runs, engine, limits)
    add_page_routes(app, runs, engine, limits)
    return app


def _add_openai_routes(
    app: FastAPI,
    runs: Mapping[str, LoadedRun],
    engine: Engine,
    limits: Limits,
) -> None:
    def asked(body: ChatBody | CompletionBody) -> Generation:
        name, run = find_run(runs, body.model)
        if isinstance(body, ChatBody):
            document, layout = conversation(body, run, limits)
            return generation(body, name, run, document, layout, limits)
        document = marked_prompt(body, run, limits)
        return generation(body, name, run, document, None, limits)

    def described(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "mm1",
        }

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> dict[str, Any]:
        return {"status": "ok", "in_flight": engine.num_in_flight}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = [described(name) for name in runs]
        return {"object": "list", "data": listed}

    # names of runs may be paths
    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        found, _ = find_run(runs, name)
        return described(found)

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        def reply(found: Generation) -> Reply:
            return Reply(found, chat=True, log_probs=body.logprobs)

        return await _answer(engine, partial(asked, body), reply, body, request)

    @app.post("/v1/completions")
    async def complete(body: CompletionBody, request: Request) -> Response:
        def reply(found: Generation) -> Reply:
            return Reply(found, chat=False, log_probs=body.logprobs is not None)

        return await _answer(engine, partial(asked, body), reply, body, request)


async def _answer(
    engine: Engine,
    asked: Callable[[], Generation],
    make_reply: Callable[[Generation], Reply],
    body: GenerationBody,
    request: Request,
) -> Response:
    """The answer, whole or as events. A stream begins once there is a token, so that a
    mistake has a status of its own."""
    place = engine.enter()
    try:
        found = await run_in_threadpool(asked)
        reply = make_reply(found)
    except BaseException:
        place.close()
        raise
    tokens = _until_gone(engine.generate(found), request, place)
    if not body.stream:
        async with aclosing(tokens):
            made = [token async for token in tokens]
        if not made:
            return Response(status_code=499)  # nobody waits any more
        return JSONResponse(reply.whole(made))
    if (first := await anext(tokens, None)) is None:
        return Response(status_code=499)  # nobody waits any more
    with_usage = bool(body.stream_options and body.stream_options.include_usage)
    return StreamingResponse(
        _events(first, tokens, reply, with_usage),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache"},
    )


async def _events(
    first: StreamedToken,
    rest: AsyncGenerator[StreamedToken],
    reply: Reply,
    with_usage: bool,
) -> AsyncIterator[str]:
    number = 1
    try:
        if reply.chat:
            yield event(reply.opening())
        yield event(reply.chunk(first))
        async for token in rest:
            number += 1
            yield event(reply.chunk(token))
        if with_usage:
            yield event(reply.last(number))
    except Exception as error:
        log.exception("while answering")
        yield event(as_api_error(error).body())
    finally:
        await rest.aclose()
    yield DONE


async def _until_gone(
    tokens: AsyncGenerator[StreamedToken], request: Request, place: ExitStack
) -> AsyncGenerator[StreamedToken]:
    """The tokens, as long as somebody waits for them. Then the place is free."""
    with place:
        waiting = asyncio.ensure_future(anext(tokens, None))
        looked = time.monotonic()
        try:
            while True:
                done, _ = await asyncio.wait([waiting], timeout=LOOK_EVERY)
                if done:
                    if (token := waiting.result()) is None:
                        return
                    yield token
                    waiting = asyncio.ensure_future(anext(tokens, None))
                if time.monotonic() - looked >= LOOK_EVERY:
                    looked = time.monotonic()
                    if await request.is_disconnected():
                        return
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])
            await tokens.aclose()


def _add_error_handlers(app: FastAPI) -> None:
    async def respond(_: Request, error: Exception) -> JSONResponse:
        found = as_api_error(error)
        if found.status >= 500:
            log.error("while answering", exc_info=error)
        return JSONResponse(found.body(), found.status)

    async def invalid(
        request: Request, error: RequestValidationError
    ) -> JSONResponse:
        sent = {"body": error.body, "query": dict(request.query_params)}
        return await respond(request, invalid_request(error.errors(), sent))

    async def http(request: Request, error: HTTPException) -> JSONResponse:
        known = ApiError(str(error.detail), status=error.status_code)
        return await respond(request, known)

    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    app.add_exception_handler(UserError, respond)
    app.add_exception_handler(Exception, respond)
