"""The value of arithmetic, against Python's own for random expressions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.language.arithmetic import value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("( 84.0 / 2.0 )", 42),
        ("(84 / 2)", 42),
        ("84/2", 42),
        ("((10 / 4) + (20 / 4))", Fraction(15, 2)),
        ("(3 + 5) + 2", 10),
        ("8 - 3 - 2", 3),
        ("2 + 3 * 4", 14),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2**-1", Fraction(1, 2)),
        ("7 x 36", 252),
        ("7 × 36 ÷ 2", 126),
        ("1,200 + 34", 1234),
        ("$192 - $34", 158),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("(10-3)", 7),
        ("(27 - 101)", -74),
        ("-(-3)", 3),
        ("1 / 3", Fraction(1, 3)),
    ],
)
def test_arithmetic_has_its_exact_value(text, expected):
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "3 * x", "(3", "3)", "3 +", "* 3", "3 4", "(2)(3)", "1 / 0", "1e3", "3 apples"),
        *("2020-01-02", "3-2", "1/2/2020", "555-1234", "2 - 3", "10 – 12"),  # dates, ranges
        *("1,20 + 1", "1.2.3", "1,2345", "__import__('os')", "9 if 9 else 9", "3 // 2", "3 % 2"),
        *("9^9^9^9", "9**99999", "(((9^99)^99)^99)^99", "2^0.5", "0^-1"),
        *("9" * 201, "(" * 100 + "1" + ")" * 99, "-" * 150 + "1", "9" * 98 + "^16"),
    ],
)
def test_anything_else_has_no_value(text):
    assert value(text) is None


expressions = st.recursive(
    st.integers(0, 99).map(str) | st.sampled_from(["1.5", "0.25"]),
    lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
        lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"
    ),
    max_leaves=8,
)


@given(expressions)
def test_random_arithmetic_has_pythons_value(text):
    found = value(text)
    assert found is None or float(found) == pytest.approx(eval(text))
    assert found is not None or len(text) > 100


@given(st.text("0123456789.,+-*/^() x$", max_size=200))
def test_no_text_stops_the_reading(text):
    value(text)
