"""Decide when two answers are equal and which answer a text gives; no other module does."""

import re
import string
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

# Sign, currency, digits with or without commas at the thousands, decimals.
NUMBER = re.compile(r"([-+]?)[$€£]?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)\.?", re.ASCII)


def normalise(text: str) -> str:
    """Fold case, compatibility forms and white space; strip punctuation and a leading article.

    Milder than SQuAD's exact match (Rajpurkar et al., EMNLP 2016): the inside of the text
    is kept, so that `mother-in-law` keeps its hyphens, `1.5` its point and `vitamin A` its A.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    text = text.strip(string.punctuation + " ")
    return re.sub(r"^(a|an|the) ", "", text)


def same(prediction: str, answer: str) -> bool:
    """Return whether two answers are the same number, or else equal once normalised."""
    numbers = _number(prediction), _number(answer)
    if None not in numbers:
        return numbers[0] == numbers[1]
    return normalise(prediction) == normalise(answer)


def _number(text: str) -> Decimal | None:
    """Return the number that a text is, such as `1,200`, `-5.0`, `$3`, `7.`, or None."""
    text = unicodedata.normalize("NFKC", text).strip().replace("\u2212", "-")
    match = NUMBER.fullmatch(text)
    return Decimal(match[1] + match[2].replace(",", "")) if match else None


def find_options(text: str, options: Sequence[str]) -> list[str]:
    """Return the options that the text names as whole words, in order; the longest match wins."""
    names = {normalise(option): option for option in options if normalise(option)}
    if not names:
        return []
    longest_first = sorted(names, key=len, reverse=True)
    pattern = rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])"
    return [names[match] for match in re.findall(pattern, normalise(text))]


def parse_answer(text: str, options: Sequence[str]) -> str:
    """Return the answer that a generated text gives.

    Only the first line counts. The answer is the option equal to it, else the only option that it
    names ("The answer is aunt."), else the line itself.
    """
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    for option in options:
        if same(line, option):
            return option
    named = set(find_options(line, options))
    return named.pop() if len(named) == 1 else line


def conclusion(rationale: str, options: Sequence[str]) -> str | None:
    """Return the option that a rationale concludes in: the last one in its last sentence."""
    sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", rationale.strip()) if s.strip()]
    named = find_options(sentences[-1], options) if sentences else []
    return named[-1] if named else None


def split_answer(text: str, options: Sequence[str]) -> tuple[str, str | None]:
    """Return the rationale and the answer of a teacher that reasoned to an answer of its own.

    The answer follows the last `Answer:`; otherwise it is the option that the text concludes in. It
    is None if the text gives no answer, or none of the options.
    """
    marks = list(re.finditer(r"(?i)(?:^|(?<=[\s*_(]))answer[*_]*\s*:[*_]*", text))
    if not marks:
        return text.strip(), conclusion(text, options)
    answer = parse_answer(text[marks[-1].end() :].strip(" \t*_"), options)
    rationale = text[: marks[-1].start()].rstrip(" \n\t*_(")
    if options:
        matches = [option for option in options if same(answer, option)]
        return rationale.strip(), matches[0] if matches else None
    return rationale.strip(), answer or None


def is_correct(text: str, question: dict[str, Any]) -> bool:
    """Return whether a text answers a question (a row with `options` and `answer`) correctly."""
    return same(parse_answer(text, question["options"]), question["answer"])


def accuracy(texts: Sequence[str], questions: Sequence[dict[str, Any]]) -> float:
    """Return the share of texts that answer their question correctly."""
    correct = sum(is_correct(t, q) for t, q in zip(texts, questions, strict=True))
    return correct / len(questions)
