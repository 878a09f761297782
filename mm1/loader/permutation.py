"""A shuffled order of any length that is computed and not stored: the n-th document of
an epoch."""

import hashlib

import numpy as np
from jaxtyping import Int

ROUNDS = 6
"""Of the Feistel network; four are known to suffice, two more because its halves are
small."""

MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""SplitMix64's, as are the shifts."""


def permute(
    places: Int[np.ndarray, " n"], size: int, key: str
) -> Int[np.ndarray, " n"]:
    """Where a permutation of 0 .. size - 1, chosen by `key`, takes each place; O(1)
    memory for any size.

    A Feistel network permutes the next power of 4; values outside are sent through it
    again until they fall inside (cycle walking; Black and Rogaway, "Ciphers with
    Arbitrary Finite Domains", 2002). Integer arithmetic alone, so that the order of
    data does not change with the version of numpy or the machine.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    round_keys = np.frombuffer(
        hashlib.blake2b(key.encode(), digest_size=8 * ROUNDS).digest(),
        dtype="<u8",
    )
    values = _feistel(places.astype(np.uint64), half, round_keys)
    while len(outside := np.flatnonzero(values >= size)):
        values[outside] = _feistel(values[outside], half, round_keys)
    return values.astype(np.int64)


def _feistel(
    values: np.ndarray, half: np.uint64, round_keys: np.ndarray
) -> np.ndarray:
    """Permutes 0 .. 4^half - 1 (uint64): each round mixes one half of the bits with a
    hash of the other."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left = values >> half
    right = values & mask
    for round_key in round_keys:
        mixed = (right + round_key) * MULTIPLIERS[0]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * MULTIPLIERS[1]
        left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & mask)
    return (left << half) | right
