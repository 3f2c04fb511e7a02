"""The student's prompts: the question, and the texts that ask for each target.

A task is named `answer`, `saliency`, or after a teacher. Its text after the question asks for its
target; if `student.prompt.prefixes` are set, so does a word before the question.
"""

import re
from collections.abc import Sequence
from string import ascii_lowercase

from stages.distil.interface.method import ANSWER, StudentPrompt

QUESTION = "Question: "
OPTIONS = "\nOptions: "
SEPARATOR = ", "
OPTION_LINES = "\nOptions:"  # of options that hold a comma: a line each, after BULLET
BULLET = "\n- "
CHOICES = "\nAnswer Choices:"
DEFAULT = StudentPrompt()
MARK = re.compile(r"\banswer\s*:", re.IGNORECASE)


def letters(count: int) -> list[str]:
    """Return the letters of so many options: a to z, then aa, ab and so on."""
    return [_letter(number) for number in range(1, count + 1)]


def _letter(number: int) -> str:
    before, last = divmod(number - 1, len(ascii_lowercase))
    return (_letter(before) if before else "") + ascii_lowercase[last]


def option_marks(count: int) -> list[str]:
    """Return what is written before each of so many lettered options."""
    return [f"\n({letter}) " for letter in letters(count)]


def question_text(question: str, options: Sequence[str], prompt: StudentPrompt = DEFAULT) -> str:
    """Return the question with its options, by default as every model reads it."""
    return f"{question}{options_text(options, prompt)}"


def options_text(options: Sequence[str], prompt: StudentPrompt = DEFAULT) -> str:
    """Return the text that follows the question: its options, if it has any.

    If one of the listed options holds a comma, each has a line of its own, since commas would not
    tell where one ends. They get no letters, which would be a second name to answer with. Lettered
    options are those of the code of TinyLLM and Distilling step-by-step.
    """
    if not options:
        return ""
    if prompt.options == "listed":
        start, mark, separator = _listing(options)
        return start + separator.join(mark + option for option in options)
    marks = option_marks(len(options))
    return CHOICES + "".join(f"{m}{option}" for m, option in zip(marks, options, strict=True))


def question_spans(question: str, options: Sequence[str]) -> list[tuple[int, int]]:
    """Return the character spans of the question and of each option in `question_text`."""
    before, mark, separator = _listing(options)
    spans = [(0, len(question))]
    start = len(question) + len(before) + len(mark)
    for option in options:
        spans.append((start, start + len(option)))
        start += len(option) + len(separator) + len(mark)
    return spans


def _listing(options: Sequence[str]) -> tuple[str, str, str]:
    """Return what stands before listed options, before each of them, and between them."""
    if any("," in option for option in options):
        return OPTION_LINES, BULLET, ""
    return OPTIONS, "", SEPARATOR


def text_before(task: str, prompt: StudentPrompt = DEFAULT) -> str:
    """Return the text before the question for a task."""
    return f"{prompt.prefixes[task]}: " if prompt.prefixes else QUESTION


def student_context(question: str, options: Sequence[str], prompt: StudentPrompt = DEFAULT) -> str:
    """Return the text that the student reads before the task of the answer."""
    return f"{text_before(ANSWER, prompt)}{question_text(question, options, prompt)}"


ANSWER_TASK = "\nAnswer:"
REASONING_TASK = "\nRationale:"
SALIENCY_TASK = "\nKey words:"


def rationale_task(number: int) -> str:
    """Return the task prefix that asks the student for the rationale of its `number`th teacher."""
    return f"\nReason {number}:"


def reasoning_text(rationale: str) -> str:
    """Return what the student writes after REASONING_TASK and before its answer.

    An `Answer:` within the rationale is reworded, since the answer follows the last one.
    """
    return f"{MARK.sub('answer is', rationale.strip())}{ANSWER_TASK}"


def split_reasoned(text: str) -> tuple[str, str | None]:
    """Return the rationale and the answer of a student's reasoned text; None if it gives none."""
    rationale, mark, answer = text.rpartition(ANSWER_TASK.strip())
    return (rationale.strip(), answer.strip()) if mark else (text.strip(), None)
