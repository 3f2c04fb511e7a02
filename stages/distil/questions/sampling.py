"""Nested subsets of the train questions: a smaller one is contained in every larger one."""

from collections.abc import Sequence
from hashlib import blake2b


def choose_subset(
    ids: Sequence[str], fraction: float, limit: int | None, seed: int
) -> set[int] | None:
    """Return the places of the chosen questions, or None where all are.

    Questions are ranked by a seeded digest of their id and the first of them are taken, so that
    25 % are contained in 50 %, and in what `limit` takes where that is more.
    """
    size = max(1, round(fraction * len(ids)))
    size = min(size, limit or size)
    if size >= len(ids):
        return None

    def rank(place: int) -> bytes:
        return blake2b(f"{seed} {ids[place]}".encode(), digest_size=16).digest()

    return set(sorted(range(len(ids)), key=rank)[:size])
