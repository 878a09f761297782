"""Keys and values of the last few sequences, for what continues one of them.

Turns of a conversation, and questions after the same shots, begin alike: only what
differs is read again. Answers are the same up to rounding, since sums are taken in
another order (`mm1.nn.cache`).
"""

from mm1.data.render import RenderedDocument
from mm1.infer.prefixes import common_prefix_length
from mm1.nn.cache import KVCache

MIN_SHARED = 32
"""Tokens; a shorter beginning is not worth a second attention."""


class PrefixCaches:
    """The caches of sequences of one model, at most `max_tokens` tokens in all; the one
    that was used longest ago goes first."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.entries: list[tuple[RenderedDocument, KVCache]] = []

    def longest(self, sequence: RenderedDocument) -> KVCache | None:
        """The keys and values of the longest known beginning of a sequence, of which at
        least one token is left; None if all are short."""
        lengths = [
            common_prefix_length([known, sequence]) for known, _ in self.entries
        ]
        if max(lengths, default=0) < MIN_SHARED:
            return None
        best = lengths.index(max(lengths))
        entry = self.entries.pop(best)
        self.entries.append(entry)
        return entry[1].first(lengths[best])

    def add(self, sequence: RenderedDocument, cache: KVCache) -> None:
        """Keeps what a cache, with its prefix, has read of a sequence."""
        whole = cache.joined()
        same = [
            entry
            for entry in self.entries
            if common_prefix_length([entry[0], sequence])
            == len(entry[0].tokens) - 1
        ]
        for entry in same:
            self.entries.remove(entry)
        self.entries.append((sequence, whole))
        while sum(each.bound for _, each in self.entries) > self.max_tokens:
            self.entries.pop(0)
