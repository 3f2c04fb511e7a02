"""A question as the student reads it: its tokens, a branch for each target, and what fits.

It knows neither texts nor tokenizers: `Encoder` makes samples of texts.
"""

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import ANSWER, SALIENCY

SOFT_LABELS = "soft_labels"
RESERVED = "the tokens reserved for a text by evaluate.max_tokens or evaluate.reasoning_tokens"
NO_RATIONALE = (ANSWER, SALIENCY, SOFT_LABELS)  # tasks that are not named after a teacher


@dataclass(frozen=True)
class Branch:
    """One task of a question: `prefix` asks for `target`, which ends in end-of-text.

    It follows the question or, with `after_answer`, the first branch without its end-of-text. An
    option of the task SOFT_LABELS does not end in end-of-text; `score` is its teacher's. Where an
    answer follows a rationale, it is the last `answer` tokens. `share` is 1/R for each of a
    question's R rationales of one teacher: together they count as one.
    """

    task: str
    prefix: list[int]
    target: list[int]
    after_answer: bool = False
    score: float | None = None
    answer: int = 0
    share: float = 1.0


@dataclass(frozen=True)
class Sample:
    """A question's tokens and the branches that share them.

    If the question is too long, `Window.fit` cuts tokens of the context after the first `head`;
    `least` of its tokens stay, `head` among them.
    """

    id: str
    context: list[int]
    branches: list[Branch]
    head: int = 0
    least: int = 0

    @property
    def length(self) -> int:
        """The tokens that a decoder-only student reads: the question and all its branches."""
        return len(self.context) + sum(len(b.prefix) + len(b.target) - 1 for b in self.branches)

    def with_branch(self, **changes: Any) -> "Sample":
        """Return a sample of one branch with fields of this branch changed."""
        [branch] = self.branches
        return replace(self, branches=[replace(branch, **changes)])


@dataclass(frozen=True)
class Window:
    """How much a student reads at once.

    `limit` is the number of tokens of a question and one of its targets; an encoder reads the
    question alone. `advice` is what to do about a question that is longer.
    """

    limit: int
    encoder_decoder: bool
    advice: str

    def fit(self, sample: Sample, text: str = "answer") -> Sample:
        """Return the sample, shortened to the limit; `text` names its answer in an error.

        A question that is too long loses its beginning, but neither the text before it nor an
        option. A rationale or salient words that leave no room for the options are left out. Raises
        `UserError` if options and answer alone are too long.
        """
        branches = sample.branches
        while branches:
            longest = max(self._length(branch, sample) for branch in branches)
            room = self.limit - longest
            if len(sample.context) <= room:
                break
            if room >= sample.least:
                start = sample.head + len(sample.context) - room
                context = sample.context[: sample.head] + sample.context[start:]
                return replace(sample, context=context, branches=branches)
            optional = [b for b in branches if b.task not in (ANSWER, SOFT_LABELS)]
            if not optional:
                raise UserError(
                    f"question {sample.id!r}: options and {text} take {sample.least + longest} "
                    f"tokens, more than the {self.limit} tokens that the student reads; leave the "
                    f"question out, or {self.advice}"
                )
            left_out = max(optional, key=lambda branch: self._length(branch, sample))
            branches = [branch for branch in branches if branch is not left_out]
        return replace(sample, branches=branches)

    def fit_prompt(self, sample: Sample, max_tokens: int) -> Sample:
        """Return a sample of one branch as a prompt that leaves room for a text of `max_tokens`.

        Its branch has no target. Raises `UserError` if options and text alone are too long.
        """
        fitted = self.fit(with_room(sample, max_tokens), RESERVED)
        return fitted.with_branch(task=sample.branches[0].task, target=[])

    def _length(self, branch: Branch, sample: Sample) -> int:
        """Return how many tokens a branch adds to those of its question."""
        if self.encoder_decoder:
            return 0
        own = len(branch.prefix) + len(branch.target)
        return own + len(said(sample)) if branch.after_answer else own


def of_tasks(samples: Iterable[Sample], tasks: Container[str]) -> list[Sample]:
    """Return a question's samples with the branches of these tasks alone."""
    chosen = (replace(s, branches=[b for b in s.branches if b.task in tasks]) for s in samples)
    return [sample for sample in chosen if sample.branches]


def fit_targets(samples: Iterable[Sample], window: Window) -> list[Sample]:
    """Return a question's samples as the student reads them; what does not fit is left out.

    The rationales of one teacher share the weight of one.
    """
    fitted = [fits for sample in samples if (fits := window.fit(sample)).branches]
    rationales = Counter(b.task for s in fitted for b in s.branches if b.task not in NO_RATIONALE)
    if all(count == 1 for count in rationales.values()):
        return fitted
    return [
        replace(s, branches=[replace(b, share=1 / rationales.get(b.task, 1)) for b in s.branches])
        for s in fitted
    ]


def with_room(prompt: Sample, tokens: int, task: str = ANSWER) -> Sample:
    """Return a sample of one branch with a target of so many tokens, whatever they are.

    An answer has to fit; the target of another task may be left out.
    """
    return prompt.with_branch(task=task, target=[0] * tokens)


def with_drafts(prompt: Sample, drafts: Sequence[list[int]], shared: bool) -> list[Sample]:
    """Return a prompt with each of these texts as its answer: one sample, or one for each text."""
    [branch] = prompt.branches
    branches = [replace(branch, target=draft) for draft in drafts]
    groups = [branches] if shared else [[each] for each in branches]
    return [replace(prompt, branches=group) for group in groups if group]


def said(sample: Sample) -> list[int]:
    """Return what a branch after the answer follows, besides the question."""
    first = sample.branches[0]
    return first.prefix + first.target[:-1]


def separate_tasks(samples: Iterable[Sample]) -> list[Sample]:
    """Return one sample per task: the same losses, with a pass for each task."""
    return [replace(s, branches=[_alone(s, branch)]) for s in samples for branch in s.branches]


def _alone(sample: Sample, branch: Branch) -> Branch:
    """Return a branch that follows the question; it repeats the answer, if it came after that."""
    if not branch.after_answer:
        return branch
    return replace(branch, prefix=said(sample) + branch.prefix, after_answer=False)
