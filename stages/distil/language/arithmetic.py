"""The exact value of arithmetic in numbers, such as `(84 / 2)`.

Texts come from models and data sets: their length, depth and the size of every value are bounded.
"""

import operator
import re
from collections.abc import Callable
from fractions import Fraction

LONGEST = 200  # characters
DEEPEST = 20  # parentheses, signs and powers inside one another
LARGEST = 4_096  # bits of a numerator or denominator
TOKEN = re.compile(
    r"\s*(?:[$€£]?(?P<number>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d.,]*\d)|\d+(?:\.\d+)?|\.\d+)"
    r"|(?P<sign>\*\*|[-+*/^()]))",
    re.ASCII,
)
TIMES = re.compile(r"(?<=[\d)])\s*[xX]\s*(?=[\d(.])")
SIGNS = str.maketrans("×·⋅∗÷−–[]", "****/--()")
# A date, a score or a range, such as `2020-01-02`, `3-2`, `1/2/2020`.
NO_SUM = re.compile(r"\d+(?:-\d+)+|\d+(?:/\d+){2,}")
RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)")  # `2 - 3`, if it ascends

OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class _NoValueError(ValueError):
    """The text is no arithmetic, or its value is out of bounds."""


def value(text: str) -> Fraction | None:
    """Return the value of arithmetic in numbers, or None if the text is anything else.

    It may have + - * / ^ (also as ×, ÷, **) and brackets. Numbers alone in a row (`2020-01-02`,
    `1/2/2020`) and ranges (`2 - 3`) are no arithmetic; neither are units and names.
    """
    if len(text) > LONGEST:
        return None
    text = TIMES.sub("*", text.translate(SIGNS)).strip()
    bounds = RANGE.fullmatch(text)
    if NO_SUM.fullmatch(text) or (bounds and Fraction(bounds[1]) < Fraction(bounds[2])):
        return None
    try:
        return _Reader(text).value()
    except (_NoValueError, ZeroDivisionError):
        return None


class _Reader:
    """Reads sums of products of powers, from left to right."""

    def __init__(self, text: str):
        self._tokens: list[str | Fraction] = []
        end = 0
        while end < len(text):
            token = TOKEN.match(text, end)
            if token is None:
                raise _NoValueError
            number = token["number"]
            self._tokens.append(Fraction(number.replace(",", "")) if number else token["sign"])
            end = token.end()
        self._next = 0
        self._depth = 0

    def value(self) -> Fraction:
        result = self._sum()
        if self._next < len(self._tokens):
            raise _NoValueError
        return result

    def _take(self, *signs: str) -> str | None:
        """Pass over the next token if it is one of these signs."""
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        if not isinstance(token, str) or token not in signs:
            return None
        self._next += 1
        return token

    def _sum(self) -> Fraction:
        result = self._product()
        while sign := self._take("+", "-"):
            result = _bounded(OPERATIONS[sign](result, self._product()))
        return result

    def _product(self) -> Fraction:
        result = self._signed()
        while sign := self._take("*", "/"):
            result = _bounded(OPERATIONS[sign](result, self._signed()))
        return result

    def _signed(self) -> Fraction:
        self._depth += 1
        if self._depth > DEEPEST:
            raise _NoValueError
        sign = self._take("+", "-")
        result = self._signed() if sign else self._power()
        self._depth -= 1
        return -result if sign == "-" else result

    def _power(self) -> Fraction:
        base = self._number()
        if not self._take("^", "**"):
            return base
        exponent = self._signed()
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator != 1 or bits * abs(exponent) > LARGEST:
            raise _NoValueError
        return base ** int(exponent)

    def _number(self) -> Fraction:
        if self._take("("):
            result = self._sum()
            if not self._take(")"):
                raise _NoValueError
            return result
        token = self._tokens[self._next] if self._next < len(self._tokens) else None
        if not isinstance(token, Fraction):
            raise _NoValueError
        self._next += 1
        return token


def _bounded(number: Fraction) -> Fraction:
    if max(number.numerator.bit_length(), number.denominator.bit_length()) > LARGEST:
        raise _NoValueError
    return number
