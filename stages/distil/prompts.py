"""Every text that a model reads around a question: for the teachers, and for the student.

Knows questions and chat messages; knows nothing of tokens or of any model.
"""

import random
from collections.abc import Sequence

from stages.distil.examples import POOL, Example

Messages = list[dict[str, str]]

# What holds for every question stands in the system text, which a prefix cache pays for once.
EXPLAIN = "Explain why the given answer is right, with only the facts that matter."
CHOOSE = "Answer with one of the options and nothing else."
ANSWER = "Reply with the answer and nothing else."
OPTIONS = "\nOptions: "


def question_text(question: str, options: Sequence[str]) -> str:
    """Return the question with its options, as every model reads it."""
    return f"{question}{OPTIONS}{', '.join(options)}" if options else question


def question_spans(question: str, options: Sequence[str]) -> list[tuple[int, int]]:
    """Return where question and options stand in `question_text`, as character spans."""
    spans = [(0, len(question))]
    start = len(question) + len(OPTIONS)
    for option in options:
        spans.append((start, start + len(option)))
        start += len(option) + len(", ")
    return spans


def rationale_messages(example: Example, solved: Sequence[Example], teacher: str) -> Messages:
    """Teacher-forcing chain of thought (TinyLLM, section 3.3): the answer is given, why is asked.

    Each solved example is a turn of its own, answered by its rationale.
    """

    def ask(asked: Example) -> str:
        text = question_text(asked.question, asked.options)
        return f"{text}\nCorrect answer: {asked.answer}"

    messages = [{"role": "system", "content": EXPLAIN}]
    for shown in solved:
        messages.append({"role": "user", "content": ask(shown)})
        messages.append({"role": "assistant", "content": example_rationale(shown, teacher)})
    return [*messages, {"role": "user", "content": ask(example)}]


def answer_messages(example: Example) -> Messages:
    """Zero-shot question: the teacher's own answer, without a rationale."""
    system = CHOOSE if example.options else ANSWER
    text = question_text(example.question, example.options)
    return [{"role": "system", "content": system}, {"role": "user", "content": text}]


def example_rationale(example: Example, teacher: str) -> str:
    """Return the rationale that an in-context example shows: the teacher's own, else the first."""
    return example.rationales.get(teacher) or next(filter(None, example.rationales.values()))


def choose_examples(
    example: Example, among: Sequence[Example], how: str, count: int, seed: int
) -> list[Example]:
    """Choose solved examples for a question (TinyLLM, section 3.2).

    `random` draws for each question anew, seeded by its id so that no row depends on another;
    `fixed` takes the same ones for all, which a prefix cache pays for once. The question itself is
    never chosen.
    """
    if how == "none":
        return []
    others = [e for e in among if e.id != example.id and e.question != example.question]
    if how == "fixed":
        return others[:count]
    return random.Random(f"examples {seed} {example.id}").sample(others, min(count, len(others)))


def solved_examples(examples: Sequence[Example]) -> list[Example]:
    """Return the questions with a rationale that prompts may show: the pool, else train."""
    for split in (POOL, "train"):
        found = [e for e in examples if e.split == split and any(e.rationales.values())]
        if found:
            return found
    return []


def student_context(question: str, options: Sequence[str]) -> str:
    """Return what the student reads before any task."""
    return f"Question: {question_text(question, options)}"


ANSWER_TASK = "\nAnswer:"
SALIENCY_TASK = "\nKey words:"


def rationale_task(number: int) -> str:
    """Return the task prefix that asks the student for the rationale of its `number`th teacher."""
    return f"\nReason {number}:"
