"""Shared memory in which workers hand pictures to the training process, used again and again.

New shared memory is dear: the system clears each of its pages when it is first touched. So a worker keeps the pieces
that it has made and takes one again as soon as the training process holds no tensor of it any more, which that process
looks up with each delivery. Where none is free, a new piece is made, and thrown away after use.
"""

import weakref
from collections import deque

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

PIECES = 16
"""That a worker keeps: more than it makes ahead and than lie in the micro-batches of a step, as a rule."""

Place = tuple[int, int, int]
"""Of a piece: shelf, worker, number."""

_shelves: "weakref.WeakValueDictionary[int, Shelf]" = weakref.WeakValueDictionary()
"""Of this process; parcels name them, since a shelf itself would be dear to send along."""


class Shelf:
    """Which pieces of a loader's workers are in use."""

    def __init__(self, workers: int) -> None:
        self.number, self.busy = id(self), torch.zeros(workers, PIECES, dtype=torch.uint8).share_memory_()
        self.lent: deque[tuple[Place, StorageWeakRef]] = deque()
        self.pieces: dict[int, torch.UntypedStorage] = {}
        """Of this worker, by number."""
        _shelves[self.number] = self

    def take(self, size: int, worker: int) -> torch.UntypedStorage:
        """A worker's piece of at least so many bytes that nobody uses."""
        for number in range(PIECES):
            if not self.busy[worker, number]:
                if number not in self.pieces or self.pieces[number].nbytes() < size:
                    self.pieces[number] = torch.UntypedStorage._new_shared(size)
                self.busy[worker, number] = 1
                return self.pieces[number]
        return torch.UntypedStorage._new_shared(size)

    def place(self, tensor: Tensor, worker: int) -> Place | None:
        """Where a tensor that lies in a piece of this worker's lies."""
        where = tensor.untyped_storage().data_ptr()
        numbers = (number for number, piece in self.pieces.items() if piece.data_ptr() == where)
        return next(((self.number, worker, number) for number in numbers), None)

    def sweep(self) -> None:
        """Gives back what the training process has let go of."""
        for _ in range(len(self.lent)):
            place, storage = self.lent.popleft()
            if storage.expired():
                self.busy[place[1:]] = 0
            else:
                self.lent.append((place, storage))


def received(tensor: Tensor, place: Place | None) -> None:
    """Notes that this process now holds a tensor that a worker sent."""
    if place is not None and (shelf := _shelves.get(place[0])) is not None:
        shelf.lent.append((place, StorageWeakRef(tensor.untyped_storage())))
