"""How much of a text repeats itself, as Gopher's data were filtered (Rae et al. 2021,
arXiv:2112.11446, table A1).

Shares of characters count the letters of words; lines and paragraphs are compared
without the white space around them.
"""

from collections import Counter
from collections.abc import Sequence

SHARE_OF_LINES = {"lines": 0.30, "paragraphs": 0.30}
"""The largest share of lines, or paragraphs, that are copies of earlier ones."""

SHARE_OF_CHARACTERS = {"lines": 0.20, "paragraphs": 0.20}
"""The largest share of characters in these copies."""

MOST_FREQUENT = {2: 0.20, 3: 0.18, 4: 0.16}
"""n -> the largest share of characters in the most frequent n-gram of words."""

ALL_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""n -> the largest share of characters in n-grams that occurred before."""


def find_repetition(text: str) -> str:
    """The first limit that the text exceeds, with its figure; empty if none."""
    for what, mark in (("lines", "\n"), ("paragraphs", "\n\n")):
        pieces = [piece.strip() for piece in text.split(mark) if piece.strip()]
        counts = Counter(pieces)
        copies = [piece for piece in counts for _ in range(counts[piece] - 1)]
        if (share := len(copies) / max(1, len(pieces))) > SHARE_OF_LINES[what]:
            return f"{share:.0%} of the {what} are copies"
        share = _letters(copies) / max(1, _letters(pieces))
        if share > SHARE_OF_CHARACTERS[what]:
            return f"{share:.0%} of the characters are in copies of {what}"
    words = text.split()
    total = max(1, _letters(words))
    for n, limit in MOST_FREQUENT.items():
        if (share := _most_frequent(words, n) / total) > limit:
            return f"{share:.0%} of the characters are in one sequence of {n} words"
    for n, limit in ALL_REPEATED.items():
        if (share := _in_repeats(words, n) / total) > limit:
            return (
                f"{share:.0%} of the characters are in repeated sequences of"
                f" {n} words"
            )
    return ""


def _letters(pieces: Sequence[str]) -> int:
    return sum(map(len, pieces))


def _most_frequent(words: Sequence[str], n: int) -> int:
    """Characters in all places of the most frequent n-gram; 0 if none is repeated."""
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    sequence, count = max(
        counts.items(),
        key=lambda item: (item[1], _letters(item[0])),
        default=((), 0),
    )
    return count * _letters(sequence) if count > 1 else 0


def _in_repeats(words: Sequence[str], n: int) -> int:
    """Characters of the words in n-grams seen before; each word counts once."""
    seen: set[tuple[str, ...]] = set()
    covered = 0
    count = 0
    for start, sequence in enumerate(
        zip(*(words[i:] for i in range(n)), strict=False)
    ):
        if sequence in seen:
            first = max(start, covered)
            count += _letters(words[first : start + n])
            covered = start + n
        seen.add(sequence)
    return count
