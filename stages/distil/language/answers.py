"""Decide when two answers are equal and which answer a text gives; no other module does."""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import regex

from stages.distil.language import arithmetic
from stages.distil.language.appearance import appearance
from stages.distil.language.words import UNSPACED

# Digits with or without commas at the thousands, and decimals.
DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(rf"([-+]?)[$€£]?({DIGITS})\.?", re.ASCII)  # after sign and currency
# A number with what counts it, such as `$5`, `5 apples` or `3/4 of a litre`.
QUANTITY = re.compile(
    rf"(?P<sign>[-+]?)(?P<currency>[$€£]?)(?P<digits>{DIGITS})(?:/(?P<divisor>\d+))?"
    r"(?:\s*(?P<unit>[^\d\s][^\d]*))?",
    re.ASCII,
)
LONGEST_UNIT = 3  # words
SHORT_UNIT = 2  # characters: such a unit keeps its case (`mg`, `Mg`)
LONGEST_QUANTITY = 1000  # characters; Python makes integers of 4,300 digits at most
NUMBER_IN_TEXT = re.compile(rf"(?<![\w.,/-])[-+]?[$€£]?(?:{DIGITS})(?:/\d+)?(?![\w/-])", re.ASCII)
# Numbers, operators and brackets in a row, which may be arithmetic.
SUM_IN_TEXT = re.compile(r"(?<![\w.,/^*-])[-+(\d.$€£][-+*/^×÷()\d .,$€£]{0,198}[\d)](?![\w/-])")
OPERATOR = re.compile(r"[\d)]\s*[-+*/^×÷]")

# Thousands as LaTeX separates them: `1{,}000`, `1\,000`, `1,\!000`.
LATEX_COMMA = re.compile(r"(?<=\d)(?:\{,\}|\\,|,\\!)(?=\d{3}(?!\d))", re.ASCII)
NOT_RAISED = re.compile(r"[^\u00b2\u00b3\u00b9\u2070-\u209f]+")
ARTICLE = re.compile(r"^(a|an|the) ")
QUOTES = " \t\"'`*_“”„‘’«»"
# The characters around an option in a text: no letter of a word that goes on, no part of a number.
SPACED = rf"[[\w-]--[{UNSPACED}]]"
BEFORE, AFTER = rf"(?<!{SPACED})", rf"(?!{SPACED}|\p{{M}})"
BEFORE_DIGIT, AFTER_DIGIT = r"(?<!\d[.,])", r"(?![.,]?\d)"
# What denies an option right after it: `not the aunt`, `no aunt`, `isn't an aunt`.
NEGATION = re.compile(
    r"(?:\b(?:not|no|nor|neither|never|cannot|rather than|instead of)|n['’]t)"
    r"(?:\s+(?:a|an|the|any|be|been|really|simply|just|necessarily|evidence|sign|of|for|to))*"
    r"[\s\"'*_“‘]+$",
    re.IGNORECASE,
)
FORMULA = re.compile(r"[\d)]\s*[+*^×÷]\s*[^\W\d]|[^\W\d]\s*[+*^×÷]\s*[\d(]")  # `3 * x`
INTRODUCTION = re.compile(
    r"^[\s*_]*(?:so |thus,? |therefore,? )?(?:the |my )?(?:final |correct )?answer[*_]*"
    r"(?:\s*:| is:?)[\s*_]*",
    re.IGNORECASE,
)


def normalise(text: str) -> str:
    """Fold case, compatibility forms and white space; strip punctuation and a leading article.

    Milder than SQuAD's exact match (Rajpurkar et al., EMNLP 2016): the inside of the text
    is kept, so that `mother-in-law` keeps its hyphens, `1.5` its point and `vitamin A` its A.
    """
    text = " ".join(unicodedata.normalize("NFKC", appearance(text)).casefold().split())
    return ARTICLE.sub("", text.strip(string.punctuation + " "))


def same(a: str, b: str, options: Sequence[str] = ()) -> bool:
    """Return whether two answers are equal.

    With options, both must name the same one. Free-form answers are equal if they are the same
    quantity, as `quantity` reads them (a unit may be left out), or the same text without regard to
    case, quotes, final punctuation and a leading article.
    """
    if options:
        if a == b:
            return True
        option = choose_option(a, options)
        return option is not None and option == choose_option(b, options)
    one, other = quantity(a), quantity(b)
    if one and other:
        units = (one[1], other[1])
        return one[0] == other[0] and (units[0] == units[1] or "" in units)
    return _without_article(a) == _without_article(b)


def most_frequent(answers: Sequence[str], options: Sequence[str] = ()) -> str | None:
    """Return the answer that most are the same as, the first of a tie; None if there are none."""
    counts = [sum(same(answer, other, options) for other in answers) for answer in answers]
    return answers[counts.index(max(counts))] if answers else None


def choose_option(text: str, options: Sequence[str]) -> str | None:
    """Return the option that a text is, or None.

    The text is compared exactly, then by what a reader sees of it, then with its quotes and
    final punctuation stripped, then without regard to case, then as a number or normalised. A
    comparison that takes two of the options for each other (`BB` and `bb`, `C++` and `C#`, `$5` and
    `€5`) is left out.
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


def _bare(text: str) -> str:
    """Strip quotes and emphasis around a text, and the punctuation that ends a sentence."""
    return appearance(text).strip(QUOTES).rstrip(".,;:!?").strip(QUOTES)


def _folded(text: str) -> str:
    return _bare(text).casefold()


def _without_article(text: str) -> str:
    return ARTICLE.sub("", _folded(text)) or appearance(text)


def _canonical(text: str) -> Decimal | str:
    """Return a number, or a text normalised unless that makes it a number (`5%`, `10²`)."""
    if (number := _number(_bare(text))) is not None:
        return number
    folded = normalise(text)
    return folded if _number(folded) is None else "".join(text.split())


FORMS: tuple[Callable[[str], Any], ...] = (
    str.strip,
    appearance,
    _bare,
    _folded,
    _canonical,
)
# The forms in which a text names an option: of the option, of the text.
NAMED: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (normalise, lambda text: unicodedata.normalize("NFKC", appearance(text).casefold())),
    (_folded, lambda text: appearance(text).casefold()),
    (_bare, appearance),
    (appearance, appearance),
    (str.strip, str.strip),
)


def _number(text: str) -> Decimal | None:
    """Return the number that a text is, such as `1,200`, `-5.0`, `$3`, `7.`, or None."""
    match = NUMBER.fullmatch(_plain(text).strip())
    return Decimal(match[1] + match[2].replace(",", "")) if match else None


def _plain(text: str) -> str:
    """Return a text with plain digits, commas, signs and slashes; `10²` stays raised."""
    text = LATEX_COMMA.sub(",", text)
    plain = NOT_RAISED.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    return plain.replace("\u2212", "-").replace("\u2044", "/")


def quantity(text: str) -> tuple[Fraction, str] | None:
    r"""Return the number and the unit of a text such as `5 apples`, `$3`, `-1/2`, `7.`; or None.

    The text may be in quotes, emphasis or `$` of LaTeX, a fraction may be `\frac{1}{2}`. A unit is
    the currency, or the words after the number, LONGEST_UNIT at most, without a further number.
    Arithmetic in numbers, such as `(84 / 2)`, is the quantity of its value.
    """
    if len(text.strip()) > LONGEST_QUANTITY:
        return None
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2", _plain(text))
    text = _bare(re.sub(r"^\$(.*[^\\])\$$", r"\1", text.strip()))
    match = QUANTITY.fullmatch(text)
    if match is None:
        value = arithmetic.value(text)
        return None if value is None else (value, "")
    unit = (match["unit"] or "").strip()
    if len(unit) > SHORT_UNIT:
        unit = normalise(unit) or unit
    divisor = int(match["divisor"] or 1)
    if len(unit.split()) > LONGEST_UNIT or not divisor:
        return None
    value = Fraction(match["sign"] + match["digits"].replace(",", ""))
    return value / divisor, unit or match["currency"]


def numbers_in(text: str) -> list[str]:
    """Return the numbers in a text in order; arithmetic such as `(7 * 36)` is a single one."""
    text = LATEX_COMMA.sub(",", unicodedata.normalize("NFKC", text).replace("\u2212", "-"))
    numbers: list[str] = []
    end = 0
    for match in SUM_IN_TEXT.finditer(text):
        if OPERATOR.search(match[0]) and arithmetic.value(match[0]) is not None:
            numbers += [*NUMBER_IN_TEXT.findall(text[end : match.start()]), match[0]]
            end = match.end()
    return numbers + NUMBER_IN_TEXT.findall(text[end:])


def final_value(text: str) -> str | None:
    r"""Return what a worked solution marks as its result, or None.

    It is the content of the last `\boxed{...}` (MATH), else the text after `####` at the beginning
    of the last line (GSM8K); anywhere else that is a heading.
    """
    text = re.sub(r"\\(?:text|mathrm)\{([^{}]*)\}", r" \1", text)
    start = text.rfind("\\boxed{")
    if start >= 0:
        depth = 0
        for place in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[start + len("\\boxed{") : place].strip() or None
    last_line = text.rstrip().rpartition("\n")[2]
    return last_line.removeprefix("####").strip() or None if last_line.startswith("####") else None


@dataclass(frozen=True)
class Mention:
    """An option that a text names, and where in the form of the text in which it was found."""

    option: str
    start: int
    end: int


def find_options(text: str, options: Sequence[str]) -> list[str]:
    """Return the options that the text names as whole words, in order; the longest match wins.

    Text and options are normalised, or less if that takes two options for each other. An option
    that is a number is found by its value (`1,000` for `1000`). An option that the text denies
    (`not the aunt`) is not named.
    """
    return [mention.option for mention in find_mentions(text, options)[1]]


def find_mentions(text: str, options: Sequence[str]) -> tuple[str, list[Mention]]:
    """Return the form of the text in which options were looked for, and where it names them."""
    text = LATEX_COMMA.sub(",", text)
    values = [_number(option) for option in options]
    by_value = {v: o for v, o in zip(values, options, strict=True) if v is not None}
    if len(by_value) < sum(value is not None for value in values):
        by_value = {}  # two options have the same value, such as `$5` and `€5`
    worded = [option for option in options if option not in by_value.values()]
    usable = (
        (by_form, of_text)
        for of_option, of_text in NAMED
        if len(by_form := _by_form(worded, of_option)) == len(worded)
        and not any(map(_becomes_number, by_form.values(), by_form))
    )
    by_form, of_text = next(usable, ({}, None))
    if of_text is None:
        return text, []
    names = [_bounded(name) for name in sorted(by_form, key=len, reverse=True)]
    if by_value:
        names.append(rf"(?<![\w-]){BEFORE_DIGIT}[-+]?[$€£]?(?:{DIGITS})(?![\w-]){AFTER_DIGIT}")
    read = of_text(text)
    named: list[Mention] = []
    end = 0
    for match in regex.finditer("|".join(names), read, regex.VERSION1):
        option = by_form.get(match[0])
        if option is None and (value := _number(match[0])) is not None:
            option = by_value.get(value)
        if option is not None:
            if not NEGATION.search(read[end : match.start()]):
                named.append(Mention(option, match.start(), match.end()))
            end = match.end()
    return read, named


def _becomes_number(option: str, name: str) -> bool:
    """Return whether a form makes an option such as `5%`, `3!` or `10²` a bare number."""
    return _number(name) is not None and name != appearance(option).casefold()


def _bounded(name: str) -> str:
    """Return a pattern of an option that matches whole words and numbers only."""
    unspaced_start, unspaced_end = (
        regex.match(rf"[{UNSPACED}]", character) for character in (name[0], name[-1])
    )
    before = "" if unspaced_start else BEFORE
    after = r"(?!\p{M})" if unspaced_end else AFTER
    return (
        before
        + (BEFORE_DIGIT if name[0].isdigit() else "")
        + regex.escape(name, literal_spaces=True)
        + after
        + (AFTER_DIGIT if name[-1].isdigit() else "")
    )


def parse_answer(text: str, options: Sequence[str]) -> str:
    """Return the answer that a generated text gives.

    An option written out counts, also over several lines. Otherwise the result that a solution
    marks does (`final_value`), or else the first line without an introduction ("The answer is"):
    the answer is the option equal to it, else the only option that it names, else the line itself.
    """
    if (option := choose_option(text, options)) is not None:
        return option
    text = final_value(text) or text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = lines[0] if lines else ""
    for candidate in (text, line):
        if (option := choose_option(candidate, options)) is not None:
            return option
    introduction = INTRODUCTION.match(line)
    if introduction:
        line = line[introduction.end() :] or (lines[1] if len(lines) > 1 else "")
        if (option := choose_option(line, options)) is not None:
            return option
    named = set(find_options(line, options))
    return named.pop() if len(named) == 1 else line


def is_correct(text: str, question: dict[str, Any]) -> bool:
    """Return whether a text answers a question (a row with `options` and `answer`) correctly."""
    options, answer = question["options"], question["answer"]
    if options:
        return same(parse_answer(text, options), answer, options)
    return same(text, answer) or gives(parse_answer(text, []), answer)


def gives(text: str, answer: str) -> bool:
    """Return whether a text gives a free-form answer, perhaps in a sentence.

    A number may stand in a sentence if it is the only one ("Ann has 5 apples left."), or in an
    equation behind its last `=`, but not in a formula (`3 * x`).
    """
    if same(text, answer):
        return True
    gold = quantity(answer)
    if gold is None:
        return False
    text = text.rpartition("=")[2]
    numbers = [] if FORMULA.search(text) else numbers_in(text)
    named = text if len(gold[1]) <= SHORT_UNIT else normalise(text)
    return len(numbers) == 1 and same(numbers[0], answer) and gold[1] in named
