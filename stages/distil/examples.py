"""One question, as every source yields it and every stage reads it."""

from dataclasses import dataclass, field

POOL = "pool"  # solved questions for prompts, kept apart from the three splits
SPLITS = ("train", "validation", "test", POOL)


@dataclass(frozen=True)
class Example:
    """A question with its answer; `options` is empty when the answer is free-form.

    `rationales` holds what the data set itself carries: name of a teacher to its text.
    """

    id: str
    split: str
    question: str
    options: list[str]
    answer: str
    rationales: dict[str, str] = field(default_factory=dict)
