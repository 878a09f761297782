"""Worker processes that build batches: a `torch.utils.data.DataLoader` whose batches
come back through reused shared memory."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mm1.batch import Batch
from mm1.config import UserError
from mm1.loader.shared_memory import SharedMemoryPool, SharedTensor
from mm1.stop_signals import STOP_SIGNALS

WORKER_TIMEOUT = 600.0
"""Seconds without a batch after which loading fails instead of hanging."""
POLL_INTERVAL = 5.0
"""Seconds of waiting after which torch checks that all workers are alive."""
PRELOAD = ("datasets", "PIL.Image")
"""Imported once in the fork server, with the dataset's module. Otherwise each worker
imports them, one after another: a worker starts only when the previous one has
unpickled its dataset."""


class LoaderWorkerDied(UserError):
    """A worker process of the loader was killed, or hangs."""


def load_batches(
    plan: Iterable[Any], dataset: Dataset, *, workers: int
) -> Iterator[Batch]:
    """Yields `dataset[index]` for each index of `plan`, in order, computed in `workers`
    processes (0: in this one).

    `dataset` is map-style over whole batches: an index says what a batch holds. `plan`
    may be endless.

    Raises:
        UserError: the dataset's own.
        LoaderWorkerDied: a worker died, or none has delivered for `WORKER_TIMEOUT`
            seconds.
    """
    pool = SharedMemoryPool(workers)
    context = fork_server(type(dataset).__module__) if workers else None
    loader = DataLoader(
        _WorkerDataset(dataset, pool),
        sampler=plan,
        batch_size=None,
        collate_fn=_Message.encode,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        timeout=POLL_INTERVAL if workers else 0,
        multiprocessing_context=context,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_loading if workers else None,
    )
    for message in _with_timeout(iter(loader)):
        if isinstance(message, UserError):
            raise message
        yield message.decode()
        pool.release_freed()


def fork_server(module: str) -> ForkServerContext:
    """Whose processes share the imports of `module`, if it is the first that is asked
    for."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, module, *PRELOAD])
    for start in (resource_tracker.ensure_running, forkserver.ensure_running):
        # Its processes inherit what is blocked here, and so live through it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@atexit.register
def _kill_workers() -> None:
    """Runs before multiprocessing's own, which asks daemons to end by a signal that
    these take no notice of, and then waits for them: what keeps a loader alive until
    the end, such as the traceback of an error, would keep the process for ever."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


class _WorkerDataset(Dataset):
    """The dataset in a worker. A user's error is returned, since raising it would turn
    it into the text of a traceback."""

    def __init__(self, dataset: Dataset, pool: SharedMemoryPool) -> None:
        self.dataset = dataset
        self.pool = pool

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


@dataclass(frozen=True, slots=True)
class _Message:
    """A batch on its way from a worker to the training process.

    Images lie in the shared memory pool. Small tensors are pickled as numpy arrays:
    torch would put each into a shared memory file of its own, and opening it on both
    sides takes longer than copying a row's tokens.
    """

    batch_class: type[Any]
    fields: dict[str, Any]

    @classmethod
    def encode(cls, batch: Any) -> "_Message | UserError":
        if isinstance(batch, UserError):
            return batch
        values = {
            f.name: _encode(getattr(batch, f.name)) for f in fields(batch)
        }
        return cls(type(batch), values)

    def decode(self) -> Batch:
        values = {name: _decode(value) for name, value in self.fields.items()}
        return self.batch_class(**values)

    def pin_memory(self) -> "_Message":
        """Called by DataLoader's pinning thread."""
        batch: Any = self.decode().pin_memory()
        values = {f.name: getattr(batch, f.name) for f in fields(batch)}
        return _Message(type(batch), values)


def _encode(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    worker = get_worker_info()
    if worker and value.is_shared():
        return worker.dataset.pool.share(value, worker.id)  # type: ignore[attr-defined]
    return value.numpy()


def _decode(value: Any) -> Any:
    if isinstance(value, SharedTensor):
        return value.open()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _begin_loading(_: int) -> None:
    begin_worker()


def begin_worker() -> None:
    """Makes this process end with its parent, and with no signal that stops the run: a
    worker that died of it would keep the run from writing its checkpoint."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_training, daemon=True).start()


def _end_with_training() -> None:
    """Ends a worker whose training process was killed.

    torch ends it with its parent, the fork server; but that lives as long as any of its
    workers does.
    """
    training = multiprocessing.parent_process()
    assert training is not None
    training.join()
    os._exit(1)


def _with_timeout(messages: Iterator[Any]) -> Iterator[Any]:
    """Yields the loader's messages. torch looks for dead workers only when a request
    times out, so time-outs are short and requests are repeated."""
    waited = 0.0
    while True:
        try:
            message = next(messages)
        except StopIteration:
            return
        # connection errors and EOF: a worker died while sending
        except (RuntimeError, ConnectionError, EOFError) as error:
            if "timed out" in str(error) and waited < WORKER_TIMEOUT:
                waited += POLL_INTERVAL
                continue
            from_torch = str(error).startswith("DataLoader")
            if isinstance(error, RuntimeError) and not from_torch:
                raise
            raise LoaderWorkerDied(
                "a worker of the loader was killed or hangs: go on by the same command"
                " with --resume, and fewer loader.workers if memory ran out"
            ) from error
        waited = 0.0
        yield message
