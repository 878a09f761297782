"""A queue of requests with one worker: models answer one at a time, in order. A request
has a place among those in flight before anything of it is decoded or tokenised.

Whoever waits is a coroutine of the server; tokens cross from the worker's thread as
they are made. One that goes away ends its request, waiting or under way.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import Event
from typing import TypeVar

from mm1.chat.prompts import Generation
from mm1.chat.protocol import ApiError
from mm1.infer.prefix_caches import PrefixCaches
from mm1.infer.stream import StreamedToken

CACHED_TOKENS = 16_384
"""Of each run, for what continues a sequence that it has read."""

Result = TypeVar("Result")


class Engine:
    def __init__(self, max_in_flight: int) -> None:
        self.max_in_flight = max_in_flight
        self.num_in_flight = 0
        self.worker = ThreadPoolExecutor(1, "generation")
        self.prefixes: dict[str, PrefixCaches] = {}

    def generate(self, asked: Generation) -> AsyncGenerator[StreamedToken]:
        """The tokens of an answer. Closing the iterator ends it."""
        prefixes = self.prefixes.setdefault(
            asked.name, PrefixCaches(CACHED_TOKENS)
        )
        return self._stream(
            lambda: asked.run.predictor.stream(
                asked.document,
                max_tokens=asked.max_tokens,
                stop=asked.stop,
                sampling=asked.sampling,
                num_alternatives=asked.num_alternatives,
                prefixes=prefixes,
            )
        )

    async def call(self, function: Callable[[], Result]) -> Result:
        """What a function returns, which is called in its turn."""
        stream = self._stream(lambda: _once(function))
        (result,) = [each async for each in stream]
        return result

    async def _stream(
        self, start: Callable[[], Generator[Result]]
    ) -> AsyncGenerator[Result]:
        loop = asyncio.get_running_loop()
        made: asyncio.Queue[Result | BaseException | None] = asyncio.Queue()
        gone = Event()

        def work() -> None:
            last = None
            try:
                with closing(start()) as results:
                    for each in results:
                        loop.call_soon_threadsafe(made.put_nowait, each)
                        if gone.is_set():
                            break
            except Exception as error:
                last = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(made.put_nowait, last)

        waiting = self.worker.submit(work)
        try:
            while (each := await made.get()) is not None:
                if isinstance(each, BaseException):
                    raise each
                yield each
        finally:
            gone.set()
            waiting.cancel()

    def enter(self) -> ExitStack:
        """A place among the requests in flight, held until it is closed.

        Raises:
            ApiError: too many requests are in flight.
        """
        if self.num_in_flight >= self.max_in_flight:
            raise ApiError(
                f"{self.num_in_flight} requests are in flight: try again later",
                status=429,
                code="rate_limit_exceeded",
            )
        self.num_in_flight += 1
        place = ExitStack()
        place.callback(self._leave)
        return place

    def _leave(self) -> None:
        self.num_in_flight -= 1

    def stop(self) -> None:
        self.worker.shutdown(wait=False, cancel_futures=True)


def _once(function: Callable[[], Result]) -> Generator[Result]:
    yield function()
