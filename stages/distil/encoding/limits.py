"""What a student cannot read or write in full, counted before it is trained."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stages.distil.encoding.samples import Sample, Window
from stages.distil.interface.errors import UserError
from stages.distil.language.answers import is_correct


@dataclass
class Affected:
    """The questions that something is true of: their number, and what is said of the first."""

    count: int = 0
    first: str = ""

    def add(self, count: int, first: str) -> None:
        """Add questions that come after these."""
        self.count += count
        self.first = self.first or first

    def __str__(self) -> str:
        return f"{self.count:,} question{'s' * (self.count > 1)}, the first {self.first}"


@dataclass
class Limits:
    """What a student cannot read or write in full, of the questions of a split.

    `cut` questions lose their beginning, `left_out` counts the targets of each task that are too
    long, `refused` holds the error of questions whose options and answer are. `longest` is the
    number of tokens of the longest answer or option; `unwritten` have one that is longer than a
    student may write, and `changed` one that the tokenizer changes. `unreasoned` have a rationale
    that is longer, with the answer after it, than a student may write.
    """

    cut: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    refused: Affected = field(default_factory=Affected)
    longest: int = 0
    unwritten: Affected = field(default_factory=Affected)
    changed: Affected = field(default_factory=Affected)
    unreasoned: Affected = field(default_factory=Affected)

    @property
    def shortened(self) -> dict[str, int]:
        """The number of questions that are cut, and of the targets of each task left out."""
        return {"cut": self.cut} | dict(sorted(self.left_out.items()))

    def add(self, later: "Limits") -> None:
        """Add those of questions that come after these."""
        self.cut += later.cut
        self.left_out += later.left_out
        self.longest = max(self.longest, later.longest)
        for mine, theirs in (
            (self.refused, later.refused),
            (self.unwritten, later.unwritten),
            (self.changed, later.changed),
            (self.unreasoned, later.unreasoned),
        ):
            mine.add(theirs.count, theirs.first)

    def add_read(
        self, window: Window, samples: Sequence[Sample], text: str = "answer"
    ) -> list[Sample]:
        """Count a question if the student cannot read its samples in full; return what it reads.

        `text` is what its answers are called in an error.
        """
        try:
            pairs = [(sample, window.fit(sample, text)) for sample in samples]
        except UserError as error:
            self.refused.add(1, str(error))
            return []
        self.cut += any(len(a.context) > len(b.context) for a, b in pairs if b.branches)
        left_out = Counter(branch.task for whole, _ in pairs for branch in whole.branches)
        left_out.subtract(branch.task for _, fits in pairs for branch in fits.branches)
        self.left_out += left_out
        return [fits for _, fits in pairs if fits.branches]

    def add_reasoned(self, samples: Sequence[Sample], most: int) -> None:
        """Count a question if a rationale with the answer after it has more than `most` tokens."""
        reasoned = (b for sample in samples for b in sample.branches if b.answer)
        if any(len(branch.target) - 1 > most for branch in reasoned):
            self.unreasoned.add(1, repr(samples[0].id))

    def add_written(
        self, row: dict[str, Any], written: dict[str, tuple[int, str]], max_tokens: int | None
    ) -> None:
        """Count a row if the student cannot write its answer or one of its options.

        `written` maps these texts to their number of tokens, and to what the tokens become as a
        text; a student writes at most `max_tokens`, or does not write.
        """
        texts = row["options"] or [row["answer"]]
        longest = max(written[text][0] for text in texts)
        if max_tokens is not None and longest > max_tokens:
            self.longest = max(self.longest, longest)
            self.unwritten.add(1, repr(row["id"]))
        for text in texts:
            if not is_correct(written[text][1], row | {"answer": text}):
                example = f"{row['id']!r} ({text!r} becomes {written[text][1]!r})"
                self.changed.add(1, example)
                break

    def check(self, split: str) -> None:
        """Raise `UserError` if options and answer of a question are longer than the limit."""
        if count := self.refused.count:
            others = f"; so are {count - 1:,} more" if count > 1 else ""
            raise UserError(f"{split}: {self.refused.first}{others}")

    def lines(self, window: Window, max_tokens: int | None) -> Iterator[str]:
        """Yield a line for each kind of limit that questions exceed."""
        if any(self.shortened.values()):
            yield f"longer than {window.limit} tokens: {self.shortened}"
        if self.unwritten.count:
            yield (
                f"answers or options of more than {max_tokens} tokens, which the student cannot "
                f"write in full: {self.unwritten}; raise evaluate.max_tokens to {self.longest}"
            )
        if self.unreasoned.count:
            yield (
                "rationales that are longer, with their answers, than evaluate.reasoning_tokens, "
                f"so that a student that learns them may be cut off: {self.unreasoned}; raise it"
            )
        if self.changed.count:
            yield (
                "answers or options that the student's tokenizer changes, so that they are counted "
                f"as wrong: {self.changed}; reword them or choose another student"
            )
