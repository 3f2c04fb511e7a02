"""How long the train texts are, as `encode` counts them."""

from collections import Counter
from dataclasses import dataclass, field

from stages.distil.storage import tables

BINS = 40  # of a histogram, at most


@dataclass
class Lengths:
    """Lengths of texts: `rows[n]` of them have n tokens."""

    rows: Counter[int] = field(default_factory=Counter)

    def quantile(self, share: float) -> int:
        """Return the smallest length that is not exceeded by this share of the texts."""
        left = share * self.rows.total()
        for tokens in sorted(self.rows):
            left -= self.rows[tokens]
            if left <= 0:
                return tokens
        return 0

    def histogram(self) -> list[tuple[int, int]]:
        """Return at most BINS bins as (smallest length, number of texts)."""
        width = max(1, -(-(max(self.rows, default=0) + 1) // BINS))
        binned: Counter[int] = Counter()
        for tokens, count in self.rows.items():
            binned[tokens // width * width] += count
        return sorted(binned.items())


def read_lengths() -> dict[str, Lengths]:
    """Return how long the train texts of each kind are, in the student's tokens."""
    lengths: dict[str, Lengths] = {}
    for row in tables.read_table(tables.LENGTHS):
        lengths.setdefault(row["text"], Lengths()).rows[row["tokens"]] = row["rows"]
    return lengths
