"""Shared memory through which workers hand images to the training process, reused from
batch to batch.

Fresh shared memory is expensive: the kernel clears each page on first touch, and the
other process has to receive a handle and map it. So each worker keeps a few blocks,
sends each of them once, and reuses a block as soon as the training process holds no
tensor in it. That process checks for released blocks with each batch it receives. When
no block is free, a worker allocates one that is not reused.
"""

import math
import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.data import get_worker_info

BLOCKS_PER_WORKER = 16
"""More than a worker prefetches plus what the micro-batches of a step hold, usually."""

BlockId = tuple[int, int, int]
"""Pool, worker, block."""

_pools: "weakref.WeakValueDictionary[int, SharedMemoryPool]" = (
    weakref.WeakValueDictionary()
)
"""Pools of this process. Messages name them by id: a pool itself is slow to send."""


@dataclass(frozen=True, slots=True)
class SharedTensor:
    """A uint8 tensor at the start of a block, as it is sent to the training process."""

    block_id: BlockId
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: Tensor | None
    """The whole block the first time it is sent, then None."""

    def open(self) -> Tensor:
        """The tensor, in the training process; its block is in use until the tensor is
        freed."""
        pool = _pools[self.block_id[0]]
        if self.block is not None:
            pool.received[self.block_id] = self.block.numpy()
        # from_numpy makes a new storage on the same memory, so that its lifetime shows
        # when the tensor is freed
        flat = torch.from_numpy(pool.received[self.block_id])
        pool.lent.append(
            (self.block_id, StorageWeakRef(flat.untyped_storage()))
        )
        return flat.as_strided(self.shape, self.strides)


class SharedMemoryPool:
    """The shared memory blocks of a data loader's workers."""

    def __init__(self, workers: int) -> None:
        self.id = id(self)
        self.in_use = torch.zeros(
            workers, BLOCKS_PER_WORKER, dtype=torch.uint8
        ).share_memory_()
        self.lent: deque[tuple[BlockId, StorageWeakRef]] = deque()
        """Training process: tensors opened and not yet seen freed."""
        self.received: dict[BlockId, np.ndarray] = {}
        """Training process: blocks that were sent."""
        self.blocks: dict[int, torch.UntypedStorage] = {}
        """Worker: its own blocks, by number."""
        self.sent: set[int] = set()
        """Worker: its blocks that the training process has."""
        _pools[self.id] = self

    def allocate(self, size: int, worker: int) -> torch.UntypedStorage:
        """A free block of at least `size` bytes, in a worker."""
        for number in range(BLOCKS_PER_WORKER):
            if not self.in_use[worker, number]:
                if (
                    number not in self.blocks
                    or self.blocks[number].nbytes() < size
                ):
                    self.blocks[number] = torch.UntypedStorage._new_shared(size)
                    self.sent.discard(number)
                self.in_use[worker, number] = 1
                return self.blocks[number]
        return torch.UntypedStorage._new_shared(size)

    def share(self, tensor: Tensor, worker: int) -> SharedTensor | Tensor:
        """What to send for a worker's tensor; the tensor itself if it lies in no
        block."""
        address = tensor.untyped_storage().data_ptr()
        for number, storage in self.blocks.items():
            if storage.data_ptr() == address:
                block = (
                    None
                    if number in self.sent
                    else torch.empty(0, dtype=torch.uint8).set_(storage)
                )
                self.sent.add(number)
                return SharedTensor(
                    (self.id, worker, number),
                    tuple(tensor.shape),
                    tensor.stride(),
                    block,
                )
        return tensor

    def release_freed(self) -> None:
        """Returns the blocks whose tensors the training process has freed."""
        for _ in range(len(self.lent)):
            block_id, storage = self.lent.popleft()
            if storage.expired():
                self.in_use[block_id[1:]] = 0
            else:
                self.lent.append((block_id, storage))


def empty_images(
    num_images: int, size: tuple[int, int]
) -> UInt8[Tensor, "N 3 H W"]:
    """Uninitialised images of `size` (height, width); in a worker they lie in shared
    memory, so that pixels are written once.

    They are channels-last, as `mm1.data.image_processing` returns images, so that
    copying one in is a plain copy.
    """
    shape = (num_images, *size, 3)
    worker = get_worker_info()
    if worker is None:
        return torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    num_bytes = math.prod(shape)
    # the pool of `mm1.loader.workers.load_batches`
    storage = worker.dataset.pool.allocate(num_bytes, worker.id)  # type: ignore[attr-defined]
    flat = torch.empty(0, dtype=torch.uint8).set_(storage)
    return flat[:num_bytes].view(shape).permute(0, 3, 1, 2)
