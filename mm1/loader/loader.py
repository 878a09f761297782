"""Prepared shards -> the batches of this rank, in an order that depends on the seed and
a small state alone.

The plan is made in the main process from lengths, the same on every rank; worker
processes only fill it with tokens and pixels. The state after a step is (what the
mixture remembers at the start of a window, rows of it that were used), so a run resumes
exactly, on any number of ranks and workers, without reading anything twice.
"""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from mm1.batch import Batch
from mm1.config import Configurable, UserError
from mm1.data.image_processing import ImageProcessor
from mm1.data.prepared.shards import Shards
from mm1.data.render import Renderer
from mm1.loader.packing import cut
from mm1.loader.shared_memory import SharedMemoryPool, SharedTensor

WORKER_PATIENCE = 600.0
"""Seconds after which a batch that does not come is an error and not a hang."""
WORKER_POLL = 5.0
"""Seconds of waiting after which it is looked whether all workers live."""
PRELOAD = ("datasets", "PIL.Image")
"""Imported once for all workers, beside the filler's module. Each would import them by
itself otherwise, and one after the other: the next is not started before the last has
read its filler."""


@dataclass(frozen=True, eq=False, slots=True)
class StepBatches:
    """One optimiser step's data on this rank."""

    micro_batches: list[Batch]
    counts: dict[str, int]
    """What this step holds over all ranks, known from the plan: tokens, images, tokens
    of each source."""
    levels: dict[str, int | float]
    """Where each source stands: epochs, documents left out because they fit no row."""
    state: dict[str, Any]
    """Where the loader stands after this step; JSON."""


class Loader(Configurable):
    """Data for the loop: an endless stream of steps from a state on."""

    @dataclass(kw_only=True, slots=True)
    class Config(Configurable.Config):
        workers: int = 0
        """Processes that decode and render; 0 does it in the training process."""

        def tokenizer(self) -> str:
            """Where the tokenizer of the prepared data lies."""
            raise NotImplementedError

        def image_processor(self, whole: ImageProcessor) -> ImageProcessor:
            """How this loader preprocesses images, given how the encoder takes a whole
            image."""
            return whole

        def build(self, *, renderer: Renderer, seed: int) -> "Loader":
            """The renderer is `mm1.infer.trained_model.make_renderer`'s, of the model that
            the loader is for."""
            return self.make(renderer=renderer, seed=seed)

    def steps(
        self, state: dict[str, Any] | None, *, rank: int, world_size: int
    ) -> Iterator[StepBatches]:
        """Steps from `state` on (None: from the beginning)."""
        raise NotImplementedError

    def describe(self) -> dict[str, dict[str, int | float]]:
        """Name of each source -> its documents, tokens and images, for people."""
        raise NotImplementedError

    def validation(self, *, rank: int, world_size: int) -> Iterator[Batch]:
        """Batches of documents that are never trained on, each once; every rank yields
        equally many."""
        raise NotImplementedError


class Prepared:
    """A prepared folder as the mixture sees it: lengths of documents under this
    renderer."""

    def __init__(self, folder: str, renderer: Renderer, split: str = "train") -> None:
        self.shards = Shards(Path(folder), split)
        self.renderer = renderer
        self.shards.check_tokenizer(renderer.tokenizer.fingerprint)
        self.num_documents = len(self.shards)
        self.lengths, self.num_views = renderer.lengths(
            self.shards.text_tokens,
            self.shards.image_offsets,
            self.shards.image_widths,
            self.shards.image_heights,
        )

    def tokens(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return self.lengths[ids]

    def images(self, ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return self.num_views[ids]

    def pieces(
        self, document: int, *, sequence_length: int, max_images: int
    ) -> list[tuple[int, int, int]]:
        """None of a document with pictures where the model has no encoder."""
        image_processor = self.renderer.image_processor
        if image_processor is None:
            return []
        sequence = self.renderer(self.shards.document(document))
        counts = (len(image_processor.positions(grid)) for grid in sequence.grids)
        pictures = (
            (*place, count)
            for place, count in zip(sequence.image_spans, counts, strict=True)
        )
        return cut(
            len(sequence.tokens),
            pictures,
            sequence_length=sequence_length,
            max_images=max_images,
        )

    def describe(self) -> dict[str, int | float]:
        return {
            "documents": self.num_documents,
            "tokens": int(self.lengths.sum()),
            "images": int(self.num_views.sum()),
        }


class InOrder(Sampler):
    """Hands planned work to the loader in order; `plan` may be endless."""

    def __init__(self, plan: Iterable[Any]) -> None:
        self.plan = plan

    def __iter__(self) -> Iterator[Any]:
        return iter(self.plan)


def _leave_interrupts_to_the_run(_: int) -> None:
    """Ctrl-C reaches every process of a terminal; a worker that died of it would take
    the run's checkpoint with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A batch on its way from a worker.

    Pictures lie in shared memory (`mm1.loader.shared_memory`). What is small
    goes with the message: each tensor in shared memory is a file that both sides open,
    which for a row's tokens takes longer than to copy them.
    """

    kind: type[Any]
    fields: dict[str, Any]

    @classmethod
    def of(cls, batch: Any) -> "_Parcel | UserError":
        if isinstance(batch, UserError):
            return batch
        return cls(
            type(batch),
            {f.name: _packed(getattr(batch, f.name)) for f in fields(batch)},
        )

    def open(self) -> Batch:
        return self.kind(
            **{name: _unpacked(value) for name, value in self.fields.items()}
        )

    def pin_memory(self) -> "_Parcel":
        """In page-locked memory; torch's loader calls it."""
        opened: Any = self.open().pin_memory()
        return _Parcel(
            type(opened), {f.name: getattr(opened, f.name) for f in fields(opened)}
        )


def _packed(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    worker = get_worker_info()
    return (
        worker.dataset.pool.share(value, worker.id)  # type: ignore[attr-defined]
        if worker and value.is_shared()
        else value.numpy()
    )


def _unpacked(value: Any) -> Any:
    if isinstance(value, SharedTensor):
        return value.open()
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


class _Worker(Dataset):
    """A filler in a worker. A user's mistake comes back as itself, and not as the text
    of a traceback."""

    def __init__(self, filler: Dataset, pool: SharedMemoryPool) -> None:
        self.filler = filler
        self.pool = pool

    def __getitem__(self, work: Any) -> Any:
        try:
            return self.filler[work]
        except UserError as error:
            return error


def load(plan: Iterable[Any], filler: Dataset, *, workers: int) -> Iterator[Batch]:
    """Fills planned work into batches, in order, in `workers` processes (0: in this
    one).

    Raises:
        UserError: the filler's own, or a worker died, or none has delivered for
            `WORKER_PATIENCE` seconds.
    """
    pool = SharedMemoryPool(workers)
    context = multiprocessing.get_context("forkserver") if workers else None
    if context is not None:
        context.set_forkserver_preload([__name__, type(filler).__module__, *PRELOAD])
    loader = DataLoader(
        _Worker(filler, pool),
        sampler=InOrder(plan),
        batch_size=None,
        collate_fn=_Parcel.of,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        timeout=WORKER_POLL if workers else 0,
        multiprocessing_context=context,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_interrupts_to_the_run if workers else None,
    )
    for parcel in _awaited(iter(loader)):
        if isinstance(parcel, UserError):
            raise parcel
        yield parcel.open()
        pool.release_freed()


class LoaderWorkerDied(UserError):
    """A worker process of the loader was killed, or hangs."""


def _awaited(deliveries: Iterator[Any]) -> Iterator[Any]:
    """The loader's deliveries; it looks for dead workers only where it times out, and
    may be asked again then."""
    waited = 0.0
    while True:
        try:
            delivery = next(deliveries)
        except StopIteration:
            return
        except (
            RuntimeError,
            ConnectionError,
            EOFError,
        ) as error:  # the latter two: a worker died while it delivered
            if "timed out" in str(error) and waited < WORKER_PATIENCE:
                waited += WORKER_POLL
                continue
            if isinstance(error, RuntimeError) and not str(error).startswith(
                "DataLoader"
            ):
                raise
            remedy = (
                "go on with `mm1 train --resume`, with fewer loader.workers where"
                " memory ran out"
            )
            raise LoaderWorkerDied(
                f"a worker of the loader was killed or hangs: {remedy}"
            ) from error
        waited = 0.0
        yield delivery
