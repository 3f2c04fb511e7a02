"""Read what a rationale concludes in: what it marks as its result, states, or names last.

Patterns stand beside the functions that use them. They allow for the quotes, emphasis and brackets
that models write around an option.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import itemgetter

import regex

from stages.distil.language.answers import (
    FORMULA,
    Mention,
    choose_option,
    final_value,
    find_mentions,
    find_options,
    gives,
    normalise,
    numbers_in,
    parse_answer,
    quantity,
    same,
)
from stages.distil.language.student_prompts import letters

MOST_STATEMENTS = 20  # the last ones of a text are looked at
LONGEST_STATEMENT = 2_000  # characters
LONGEST_LEAD = 40  # characters between a statement's introduction and the option that it states
# Pieces of the patterns below.
OPENING = r"\s\"'*_“‘(\["  # characters before an option
CLOSING = r"\"'*_”’)\]"  # and after it
BE = r"(?:is|was|would be|will be|must be|should be|has to be)"
MANNER = (
    r"(?:either|that|to be|only|simply|just|clearly|obviously|definitely|certainly|therefore|thus|"
    r"indeed|actually|probably|most likely|likely|option|choice|letter)"
)
MARK = r"(?:\([a-z]{1,2}\)|\b[a-z][).:])"  # of a lettered option
CALLED = r"(?:(?:the\s+)?(?:option|choice|letter)\b[\s\"'*_“‘:]*)?"  # before a letter: `Option B`

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
LIST_MARK = re.compile(  # `1.`, `b)` before the text of a line
    r"^[ \t]*(?:[a-z]|\d{1,2})[.)](?=[ \t]+\S)", re.IGNORECASE | re.MULTILINE
)
CLAUSE_END = re.compile(r"[,;:]\s+|[，、；：]")
# A line that begins the next question: `Question:`, `Q.`, `### Q2:`, `Question 3`.
NEXT_QUESTION = re.compile(
    r"^[ \t#*]*Q(?:uestion)?[ \t]*\d*[ \t*]*(?:[.:]|$)", re.IGNORECASE | re.MULTILINE
)
HEADING = re.compile(r"\s*(?:#{1,3}(?!#).*|[-*]*\s*)")  # but not GSM8K's `#### 42`


def conclusion(rationale: str, options: Sequence[str], named: bool = True) -> str | None:
    """Return the option that a rationale concludes in.

    It is the result that the rationale marks (`final_value`), else the option that it states last,
    in words or by its letter ("The answer is", "Answer:", "is correct"), else, with `named`, the
    last one that its last sentence names, else that of which its first sentence consists. Several
    options that are stated as alternatives are no conclusion.
    """
    if not options:
        return None
    if value := final_value(rationale):
        if option := choose_option(value, options) or _by_letter(value, options):
            return option
    if stated := _stated(rationale, options):
        return stated[0] if len(stated) == 1 else None
    if not named:
        return None
    last = _last_sentence(rationale, options)
    if found := _named(last, options):
        return found[-1]
    return _by_letter(THEREFORE.sub("", last), options) or _answered_first(rationale, options)


def concludes(
    rationale: str,
    options: Sequence[str],
    answer: str,
    concluded: str | None = None,
    named: bool = True,
) -> bool | None:
    """Return whether a rationale concludes in the answer; None if it concludes in nothing.

    `concluded` is an answer that was given along with it. With options, it is the `conclusion`.
    Otherwise the numbers that the rationale gives as its result are compared with an answer that is
    a quantity; another free-form answer need not be named. Without `named`, only a result that it
    marks or states counts.
    """
    if options or concluded is not None:
        concluded = concluded or conclusion(rationale, options, named)
        return None if concluded is None else same(concluded, answer, options)
    gold = quantity(answer)
    if gold is None:
        return None
    results = _results(rationale, bool(gold[1]), named)
    return any(gives(result, answer) for result in results) if results else None


def before_next_question(text: str) -> str:
    """Return a text up to the next question, with its heading, to which a model may go on."""
    text = text.strip()
    if not (other := NEXT_QUESTION.search(text, 1)):
        return text
    lines = text[: other.start()].rstrip().split("\n")
    while lines and HEADING.fullmatch(lines[-1]):
        lines.pop()
    return "\n".join(lines)


def without_conclusion(rationale: str, options: Sequence[str], answer: str) -> str:
    """Return a rationale up to the clause of its last sentence that names its result.

    The result is the last option that this sentence names, or the answer if there are no options.
    A clause that states its result ("the answer is", also by its letter) counts before others. A
    rationale whose last sentence names none is returned whole, one that is nothing but a conclusion
    as an empty text.
    """
    text = rationale.strip()
    ends = (end.end() for end in _sentence_end(tuple(options)).finditer(text))
    sentence = max((end for end in ends if end < len(text)), default=0)
    clauses = (end.end() for end in CLAUSE_END.finditer(text, sentence))
    marks = [mark.span() for mark in STATEMENT.finditer(text, sentence)]  # as in "Answer:"
    starts = [sentence, *(c for c in clauses if not any(s < c <= e for s, e in marks))]
    stating = (
        start for start, end in pairwise([*starts, len(text)]) if _states(text[start:end], options)
    )
    naming = (
        start for start in reversed(starts) if find_options(text[start:], options or [answer])
    )
    start = next(stating, None)
    start = next(naming, len(text)) if start is None else start
    return text if start == len(text) else text[:start].rstrip(" \t\n,;:，、；：")


def ends_in_answer(text: str, options: Sequence[str]) -> bool:
    """Return whether a text ends in a stated answer, whole and without a full stop.

    It is nothing but an option, its letter or a quantity: "Answer: (c) offices", "Answer: $42".
    """
    statements = list(STATEMENT.finditer(text))
    tail = text[statements[-1].end() :] if statements else ""
    if not tail.strip() or len(tail) > LONGEST_STATEMENT:
        return False
    if not options:
        return quantity(tail.rpartition("=")[2]) is not None
    return _only(tail, options) is not None


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
        return rationale.strip(), choose_option(answer, options) or _by_letter(answer, options)
    return rationale.strip(), answer or None


# What a text states

# What introduces an answer: "The correct answer is", "Best option:", "So I choose".
STATEMENT = re.compile(
    r"(?:\b(?:answer|option|choice|result|solution)"
    r"(?: (?:here|choice|option|(?:to|for) (?:this|the) (?:question|problem)))?[\"'*_”’]*"
    rf"(?:\s*[:=]|\s+{BE}\b)|\bI (?:would )?(?:choose|pick|select)\b)"
    rf"(?:\s+{MANNER}\b)*[*_]*\s*:?\s*",
    re.IGNORECASE,
)
# What introduces it from behind: "B is correct", "aunt would be the best choice".
JUDGEMENT = re.compile(
    rf"(?<=\s){BE}(?:\s+(?:the|best|right|correct|{MANNER}))*\s+(?:answer|choice|option|correct)\b",
    re.IGNORECASE,
)
# What makes a statement of the opposite, or of what is only supposed, before it.
NOT_STATED = re.compile(
    r"(?:\b(?:wrong|incorrect|false|other|another|not|no)\b|n['’]t\b)(?:\s+\w+)?\s*$"
    r"|\bif\b[^,.;:!?]*$",
    re.IGNORECASE,
)


def _stated(text: str, options: Sequence[str]) -> list[str]:
    """Return the option that a text states last, or the alternatives among which it leaves it."""
    marks: list[tuple[int, re.Match[str], Callable[..., list[str]]]] = []
    marks += [(mark.end(), mark, _introduced) for mark in STATEMENT.finditer(text)]
    marks += [(mark.start(), mark, _judged) for mark in JUDGEMENT.finditer(text)]
    marks.sort(key=itemgetter(0))
    for _, mark, read in reversed(marks[-MOST_STATEMENTS:]):
        if NOT_STATED.search(text[max(0, mark.start() - LONGEST_LEAD) : mark.start()]):
            continue
        if stated := read(text, mark, options):
            return stated
    return []


def _introduced(text: str, mark: re.Match[str], options: Sequence[str]) -> list[str]:
    """Return what the sentence states after its introduction ("The answer is")."""
    tail = text[mark.end() : mark.end() + LONGEST_STATEMENT].lstrip()
    return _stated_after(_sentences(tail, options)[0], options)


def _judged(text: str, mark: re.Match[str], options: Sequence[str]) -> list[str]:
    """Return what the clause names before its judgement ("is correct")."""
    tail = _sentences(text[mark.end() : mark.end() + LONGEST_STATEMENT], options)[0]
    if "would" in mark[0] and re.search(r"\bif\b", tail, re.IGNORECASE):
        return []
    head = text[max(0, mark.start() - LONGEST_STATEMENT) : mark.start()]
    return _stated_before(CLAUSE_END.split(_sentences(head, options)[-1])[-1], options)


# What may stand between a statement's introduction and the option: `: **(b) the`.
LEAD = re.compile(
    rf"[{OPENING}:-]*{CALLED}(?:{MARK})?[{OPENING}:-]*(?:that\s+)?(?:(?:the|a|an|to|in|at|on)\s+)?"
    r"[\"'*_“‘(\[]*",
    re.IGNORECASE,
)
# What stands between two options that are stated as alternatives: `(a) soccer or (b) hockey`.
ALTERNATIVE = re.compile(
    rf"[{CLOSING}]*\s*(,?\s*(?:or|and|and/or)(?=\s)|,|/)\s*(?:(?:either|the|a|an|option)\s+)*"
    rf"(?:{MARK}\s*)?[\"'*_“‘(\[]*",
    re.IGNORECASE,
)
EQUATION = re.compile(rf"[{CLOSING}]*\s*[-+*/×÷^=]\s*[\d($]")  # goes on after a number


def _stated_after(tail: str, options: Sequence[str]) -> list[str]:
    """Return what a statement says right after its introduction."""
    read, named = find_mentions(tail, options)
    if not named or not _leads(read, named[0]):
        letter = _by_letter(tail, options)
        return [letter] if letter else []
    if EQUATION.match(read[named[0].end :]):
        _, equals, result = tail.rpartition("=")
        return _stated_after(result, options) if equals else []
    alternatives, undecided = [named[0].option], False
    for one, other in pairwise(named):
        between = ALTERNATIVE.match(read[one.end : min(other.start, one.end + LONGEST_LEAD)])
        if not between or one.end + between.end() < other.start:
            break
        alternatives.append(other.option)
        undecided = undecided or between[1] != ","
    return list(dict.fromkeys(alternatives)) if undecided else alternatives[:1]


def _leads(text: str, mention: Mention) -> bool:
    """Return whether an option is the first thing that a text names, perhaps after its letter."""
    return mention.start <= LONGEST_LEAD and LEAD.fullmatch(text[: mention.start]) is not None


LETTER_AT_END = re.compile(
    r"(?:\(([a-z]{1,2})\)|\b(?:option|choice|answer|letter)\s+([a-z])|^\s*([a-z]))[\"'*_”’]*$",
    re.IGNORECASE,
)
THEREFORE = re.compile(
    rf"^\s*(?:(?:so|thus|therefore|hence|it {BE}|it's|option|choice)[\s,:]+)+", re.IGNORECASE
)


def _stated_before(head: str, options: Sequence[str]) -> list[str]:
    """Return what a clause names right before it is judged ("is correct")."""
    read, named = find_mentions(head, options)
    if named and not read[named[-1].end :].strip(" \t\"'*_”’)].!"):
        return [named[-1].option]
    match = LETTER_AT_END.search(THEREFORE.sub("", head).rstrip())
    option = _lettered(next(filter(None, match.groups())), options) if match else None
    return [option] if option else []


YES_OR_NO = {"yes", "no", "maybe"}


def _named(sentence: str, options: Sequence[str]) -> list[str]:
    """Return the options that a sentence names; yes and no only if a clause consists of them."""
    if not YES_OR_NO.issuperset(map(normalise, options)):
        return find_options(sentence, options)
    clauses = (THEREFORE.sub("", clause) for clause in CLAUSE_END.split(sentence))
    return [option for clause in clauses if (option := choose_option(clause, options))]


def _answered_first(text: str, options: Sequence[str]) -> str | None:
    """Return the option of which the first sentence consists, if no sentence is another one."""
    sentences = _sentences(text.strip(), options)
    first, *others = [_only(sentence.rstrip(".!:"), options) for sentence in sentences]
    return first if {first, *others} <= {first, None} else None


def _only(text: str, options: Sequence[str]) -> str | None:
    """Return the option of which a text consists, perhaps after its letter, or by its letter."""
    read, named = find_mentions(text, options)
    if not named:
        return _by_letter(text, options) if LETTER.fullmatch(text) else None
    before, after = read[: named[0].start], read[named[0].end :]
    only = LEAD.fullmatch(before) and not after.strip(")\"'*_”’] \n")
    return named[0].option if only else None


def _states(clause: str, options: Sequence[str]) -> bool:
    """Return whether a clause states an option, or a number where there are none."""
    if options:
        return bool(_stated(clause, options))
    return bool(STATEMENT.search(clause)) and bool(re.search(r"\d", clause))


# Letters of options

# A letter at the beginning that stands for itself: the text ends there, or goes on with a reason.
LETTER = re.compile(
    rf"[\s\"'*_“‘\[]*{CALLED}(?:\(([a-z]{{1,2}})\)|([a-z])\)?)[\"'*_”’\]]*"
    r"(?:\s*$|\s*[.;:!?\n]|,(?!\s*(?:(?:or|and)\s+)?\(?[a-z]\b)|\s+[-–—]\s"
    r"|\s+(?:because|since|as|for)\b)",
    re.IGNORECASE,
)


def _by_letter(text: str, options: Sequence[str]) -> str | None:
    """Return the option whose letter a text begins with, if the letter stands for itself."""
    match = LETTER.match(text)
    return _lettered(match[1] or match[2], options) if match else None


def _lettered(letter: str, options: Sequence[str]) -> str | None:
    """Return the option with a letter; None if options are letters themselves.

    The letter is that of its place or its own, as in `b) aunt`; None if these are two options.
    """
    if any(len(option := normalise(each)) == 1 and option.isalpha() for each in options):
        return None
    own = re.compile(rf"\(?{letter}[).:]\s", re.IGNORECASE)
    places = zip(letters(len(options)), options, strict=True)
    named = {each for place, each in places if place == letter.casefold() or own.match(each)}
    return named.pop() if len(named) == 1 else None


# Results of free-form questions


NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
INFERENCE = re.compile(
    r"\b(?:so(?! (?:far|many|much|that)\b)|thus|therefore|hence)\b", re.IGNORECASE
)
NUMBER_WORD = re.compile(rf"(?:{'|'.join(NUMBER_WORDS)})\b", re.IGNORECASE)


def _results(rationale: str, units: bool, named: bool) -> list[str]:
    """Return the texts that may give the numeric result of a rationale.

    It is what the rationale marks (`final_value`) or else the first number that it states last;
    otherwise any number after the last `=` of the last sentence. A text that goes on without
    numbers is judged by the last sentence with them, an inference ("So he has 5.") before others.
    With `units`, the number alone does not stand for the whole statement; without `named`, what is
    neither marked nor stated does not count.
    """
    if value := final_value(rationale):
        return [value]
    for mark in reversed(list(STATEMENT.finditer(rationale))[-MOST_STATEMENTS:]):
        if stated := _stated_number(rationale, mark):
            first = numbers_in(stated.rpartition("=")[2])[:1]
            return [stated, *([] if units or FORMULA.search(stated) else first)]
    if not named:
        return []
    *before, last = SENTENCE_END.split(LIST_MARK.sub("", rationale.strip()))
    before.sort(key=lambda sentence: INFERENCE.search(sentence) is not None)
    results = (numbers_in(sentence.rpartition("=")[2]) for sentence in [last, *reversed(before)])
    return next(filter(None, results), [])


def _stated_number(text: str, mark: re.Match[str]) -> str | None:
    """Return the sentence that states a number, if the mark ("The answer is") is no heading.

    A mark on a line of its own is one unless nothing but a quantity follows it on the next line. A
    word from one to ten is a number if the sentence begins with it and has no digits.
    """
    tail = text[mark.end() : mark.end() + LONGEST_STATEMENT].lstrip()
    if "\n" in mark[0] and quantity(tail.partition("\n")[0]) is None:
        return None
    sentence = SENTENCE_END.split(tail, maxsplit=1)[0]
    if sentence.endswith(":"):
        return None
    if re.search(r"\d", sentence):
        return sentence
    word = NUMBER_WORD.match(sentence)
    return f"{NUMBER_WORDS.index(word[0].lower()) + 1}{sentence[word.end() :]}" if word else None


# Sentences


@lru_cache
def _sentence_end(options: tuple[str, ...]) -> re.Pattern[str] | regex.Pattern[str]:
    """Return the pattern of what ends a sentence, but not inside an option such as `St. Louis`."""
    inside = [option.split() for option in options if SENTENCE_END.search(option)]
    if not inside:
        return SENTENCE_END
    names = "|".join(r"\s+".join(map(regex.escape, words)) for words in inside)
    pattern = rf"{SENTENCE_END.pattern}|(?<!\w)(?:{names})(*SKIP)(*FAIL)"
    return regex.compile(pattern, regex.IGNORECASE | regex.VERSION1)


def _sentences(text: str, options: Sequence[str]) -> list[str]:
    """Return the sentences of a text; there is at least one, perhaps empty."""
    return _sentence_end(tuple(options)).split(text)


def _last_sentence(text: str, options: Sequence[str]) -> str:
    return next((s for s in reversed(_sentences(text.strip(), options)) if s.strip()), "")
