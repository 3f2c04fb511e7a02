"""Decide when two answers are equal and which answer a text gives; no other module does."""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

# Sign, currency, digits with or without commas at the thousands, decimals.
NUMBER = re.compile(r"([-+]?)[$€£]?((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)\.?", re.ASCII)

QUOTES = " \t\"'`*_“”„‘’«»"
BEFORE, AFTER = r"(?<![\w-])", r"(?![\w-])"  # of an option in a text


def normalise(text: str) -> str:
    """Fold case, compatibility forms and white space; strip punctuation and a leading article.

    Milder than SQuAD's exact match (Rajpurkar et al., EMNLP 2016): the inside of the text
    is kept, so that `mother-in-law` keeps its hyphens, `1.5` its point and `vitamin A` its A.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    text = text.strip(string.punctuation + " ")
    return re.sub(r"^(a|an|the) ", "", text)


def same(a: str, b: str, options: Sequence[str] = ()) -> bool:
    """Return whether two answers are equal.

    With options, both must name the same one. Free-form answers are equal if they are the same
    number or the same text once normalised.
    """
    if options:
        if a == b:
            return True
        option = choose_option(a, options)
        return option is not None and option == choose_option(b, options)
    return _canonical(a) == _canonical(b)


def choose_option(text: str, options: Sequence[str]) -> str | None:
    """Return the option that a text is, or None.

    The text is compared exactly, then with its quotes and final punctuation stripped, then without
    regard to case, then as a number or normalised. A comparison that takes two of the options for
    each other (`BB` and `bb`, `C++` and `C#`, `$5` and `€5`) is left out.
    """
    for form in FORMS:
        by_form = _by_form(options, form)
        if by_form and (option := by_form.get(form(text))) is not None:
            return option
    return None


def _by_form(options: Sequence[str], form: Callable[[str], Any]) -> dict[Any, str]:
    """Return the options by their form; nothing if two share it or one has none left."""
    by_form = {form(option): option for option in options}
    return by_form if len(by_form) == len(options) and "" not in by_form else {}


def _spaced(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _bare(text: str) -> str:
    """Strip quotes and emphasis around a text, and the punctuation that ends a sentence."""
    return _spaced(text).strip(QUOTES).rstrip(".,;:!?").strip(QUOTES)


def _folded(text: str) -> str:
    return _bare(text).casefold()


def _canonical(text: str) -> Decimal | str:
    number = _number(text)
    return normalise(text) if number is None else number


FORMS: tuple[Callable[[str], Any], ...] = (_spaced, _bare, _folded, _canonical)


def _number(text: str) -> Decimal | None:
    """Return the number that a text is, such as `1,200`, `-5.0`, `$3`, `7.`, or None."""
    text = unicodedata.normalize("NFKC", text).strip().replace("\u2212", "-")
    match = NUMBER.fullmatch(text)
    return Decimal(match[1] + match[2].replace(",", "")) if match else None


def find_options(text: str, options: Sequence[str]) -> list[str]:
    """Return the options that the text names as whole words, in order; the longest match wins.

    Text and options are normalised, or less if that takes two options for each other.
    """
    for form in (normalise, _folded, _bare, _spaced):
        by_form = _by_form(options, form)
        if by_form:
            longest_first = sorted(by_form, key=len, reverse=True)
            names = "|".join(map(re.escape, longest_first))
            return [
                by_form[match] for match in re.findall(rf"{BEFORE}(?:{names}){AFTER}", form(text))
            ]
    return []


def parse_answer(text: str, options: Sequence[str]) -> str:
    """Return the answer that a generated text gives.

    An option written out counts, also over several lines. Otherwise only the first line does: the
    answer is the option equal to it, else the only option that it names ("The answer is aunt."),
    else the line itself.
    """
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    for candidate in (text, line):
        if (option := choose_option(candidate, options)) is not None:
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
        return rationale.strip(), choose_option(answer, options)
    return rationale.strip(), answer or None


def is_correct(text: str, question: dict[str, Any]) -> bool:
    """Return whether a text answers a question (a row with `options` and `answer`) correctly."""
    options, answer = question["options"], question["answer"]
    return same(parse_answer(text, options), answer, options)


def accuracy(texts: Sequence[str], questions: Sequence[dict[str, Any]]) -> float:
    """Return the share of texts that answer their question correctly."""
    correct = sum(is_correct(t, q) for t, q in zip(texts, questions, strict=True))
    return correct / len(questions)
