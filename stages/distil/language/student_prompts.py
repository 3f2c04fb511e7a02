"""The student's prompts: the question, and the task text that asks for each target."""

from collections.abc import Sequence

OPTIONS = "\nOptions: "


def question_text(question: str, options: Sequence[str]) -> str:
    """Return the question with its options, as every model reads it."""
    return f"{question}{options_text(options)}"


def options_text(options: Sequence[str]) -> str:
    """Return the text that follows the question: its options, if it has any."""
    return f"{OPTIONS}{', '.join(options)}" if options else ""


def question_spans(question: str, options: Sequence[str]) -> list[tuple[int, int]]:
    """Return the character spans of the question and of each option in `question_text`."""
    spans = [(0, len(question))]
    start = len(question) + len(OPTIONS)
    for option in options:
        spans.append((start, start + len(option)))
        start += len(option) + len(", ")
    return spans


def student_context(question: str, options: Sequence[str]) -> str:
    """Return the text that the student reads before a task."""
    return f"Question: {question_text(question, options)}"


ANSWER_TASK = "\nAnswer:"
SALIENCY_TASK = "\nKey words:"


def rationale_task(number: int) -> str:
    """Return the task prefix that asks the student for the rationale of its `number`th teacher."""
    return f"\nReason {number}:"
