"""Nested subsets of the train questions: every larger subset contains the smaller ones."""

from collections.abc import Sequence
from hashlib import blake2b


def choose_subset(
    ids: Sequence[str], fraction: float, limit: int | None, seed: int
) -> set[int] | None:
    """Return the indices of the chosen questions, or None if all are chosen.

    Questions are ranked by a seeded digest of their ids and the first ones are taken. So the 50 %
    subset contains the 25 % subset, and a larger `limit` contains a smaller one.
    """
    size = max(1, round(fraction * len(ids)))
    size = min(size, limit or size)
    if size >= len(ids):
        return None

    def rank(index: int) -> bytes:
        return blake2b(f"{seed} {ids[index]}".encode(), digest_size=16).digest()

    return set(sorted(range(len(ids)), key=rank)[:size])
