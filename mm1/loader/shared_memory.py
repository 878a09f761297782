"""Shared memory in which workers hand pictures to the training process, used again and
again.

New shared memory is dear: the system clears each of its pages when it is first touched,
and the other process has to ask for it and map it. So a worker keeps the pieces that it
has made, sends each along once, and takes one again as soon as the training process
holds no tensor of it any more, which that process looks up with each delivery. Where
none is free, a new piece is made, and thrown away after use.
"""

import weakref
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

PIECES = 16
"""That a worker keeps: more than it makes ahead and than lie in the micro-batches of a
step, as a rule."""

Place = tuple[int, int, int]
"""Of a piece: shelf, worker, number."""

_shelves: "weakref.WeakValueDictionary[int, Shelf]" = weakref.WeakValueDictionary()
"""Of this process; parcels name them, since a shelf itself would be dear to send
along."""


@dataclass(frozen=True, slots=True)
class Lent:
    """A tensor of bytes at the beginning of a piece, as it goes to the training
    process."""

    place: Place
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    piece: Tensor | None
    """The whole piece, where it was not sent before."""

    def open(self) -> Tensor:
        """The tensor, in the training process, which is noted to hold it."""
        shelf = _shelves[self.place[0]]
        if self.piece is not None:
            shelf.known[self.place] = self.piece.numpy()
        flat = torch.from_numpy(
            shelf.known[self.place]
        )  # a storage of its own for the same memory
        shelf.lent.append((self.place, StorageWeakRef(flat.untyped_storage())))
        return flat.as_strided(self.shape, self.strides)


class Shelf:
    """Which pieces of a loader's workers are in use."""

    def __init__(self, workers: int) -> None:
        self.number = id(self)
        self.busy = torch.zeros(workers, PIECES, dtype=torch.uint8).share_memory_()
        self.lent: deque[tuple[Place, StorageWeakRef]] = deque()
        self.known: dict[Place, np.ndarray] = {}
        """Pieces that were sent, in the training process."""
        self.pieces: dict[int, torch.UntypedStorage] = {}
        """Of this worker, by number."""
        self.sent: set[int] = set()
        _shelves[self.number] = self

    def take(self, size: int, worker: int) -> torch.UntypedStorage:
        """A worker's piece of at least so many bytes that nobody uses."""
        for number in range(PIECES):
            if not self.busy[worker, number]:
                if number not in self.pieces or self.pieces[number].nbytes() < size:
                    self.pieces[number] = torch.UntypedStorage._new_shared(size)
                    self.sent.discard(number)
                self.busy[worker, number] = 1
                return self.pieces[number]
        return torch.UntypedStorage._new_shared(size)

    def lend(self, tensor: Tensor, worker: int) -> Lent | Tensor:
        """What to send for a tensor that this worker made; itself where it lies in none
        of the pieces."""
        where = tensor.untyped_storage().data_ptr()
        for number, piece in self.pieces.items():
            if piece.data_ptr() == where:
                whole = (
                    None
                    if number in self.sent
                    else torch.empty(0, dtype=torch.uint8).set_(piece)
                )
                self.sent.add(number)
                return Lent(
                    (self.number, worker, number),
                    tuple(tensor.shape),
                    tensor.stride(),
                    whole,
                )
        return tensor

    def sweep(self) -> None:
        """Gives back what the training process has let go of."""
        for _ in range(len(self.lent)):
            place, storage = self.lent.popleft()
            if storage.expired():
                self.busy[place[1:]] = 0
            else:
                self.lent.append((place, storage))
