"""Find train questions that nearly repeat one of another split, which gives its answer away."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from stages.distil.language.appearance import appearance

# A word; or one character in scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer …).
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_RUN = 3  # words in a row
_TEMPLATE = 0.5  # a run that a larger share of the questions has says nothing
_FEW = 10  # of so few questions, none is a template


class NearCopies:
    """An index of questions, given as rows of EXAMPLES, that finds those similar to another.

    The similarity of two questions is the Jaccard index of their sets of three words in a row, of
    question and options alike, whatever the case and the signs between words. So the same puzzle
    about another person is a near copy, and the same question with other options need not be. Runs
    of words that most questions have are left out: a template makes no copies.

    Of two sets that are as similar as the threshold, each has one of the other's rarest elements
    (the prefix filter of Chaudhuri et al., ICDE 2006); so few are compared, and none is missed.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], threshold: float):
        self._threshold = threshold
        self.ids: list[tuple[str, str]] = []  # split and id of each question
        runs = []
        for row in rows:
            self.ids.append((row["split"], row["id"]))
            runs.append(_runs(row))
        self._count = Counter(run for each in runs for run in each)
        most = max(_FEW, _TEMPLATE * len(runs))
        self._template = {run for run, count in self._count.items() if count > most}
        self._sets = [each - self._template for each in runs]
        self._having: dict[str, list[int]] = defaultdict(list)
        for place, each in enumerate(self._sets):
            for run in self._rarest(each):
                self._having[run].append(place)

    def find(self, row: Mapping[str, Any]) -> dict[int, float]:
        """Return the similarity of each similar question by its place in `ids`."""
        runs = _runs(row) - self._template
        found = {}
        for place in {p for run in self._rarest(runs) for p in self._having.get(run, ())}:
            shared = len(runs & self._sets[place])
            similarity = shared / (len(runs) + len(self._sets[place]) - shared)
            if similarity >= self._threshold:
                found[place] = similarity
        return found

    def _rarest(self, runs: set[str]) -> list[str]:
        """Return those elements of a set of which each similar set has at least one."""
        ranked = sorted(runs, key=lambda run: (self._count[run], run))
        shared = math.ceil(self._threshold * len(runs) - 1e-9)  # with a similar set, at least
        return ranked[: len(runs) - shared + 1]


def _runs(row: Mapping[str, Any]) -> set[str]:
    runs: set[str] = set()
    for text in (row["question"], *row["options"]):
        folded = unicodedata.normalize("NFKC", appearance(text)).casefold()
        words = _WORD.findall(folded) or [folded]  # signs alone, as in a puzzle of signs
        runs.update(" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1)))
    return runs
