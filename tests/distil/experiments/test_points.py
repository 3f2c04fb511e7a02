from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats
from scipy.special import expit

from stages.distil.experiments.figures import case_study, check_questions, draw
from stages.distil.experiments.plan import Figure, Grid, Run
from stages.distil.experiments.points import (
    Estimate,
    Point,
    estimate,
    gain,
    headroom,
    holm,
    interval,
    table,
)
from stages.distil.interface.errors import UserError

GRID = Grid.model_validate(
    {
        "methods": {"plain": [], "taught": [], "oracle": []},
        "baseline": "plain",
        "ceiling": "oracle",
        "case": "taught",
        "figures": {"methods": {"seeds": [0, 1, 2]}},
    }
)


def point(method: str, *right: int, questions: int = 100, value=None) -> Point:
    answers = [[n < count for n in range(questions)] for count in right]
    return Point(method, value, answers, ["4"] * len(right))


def test_the_interval_of_one_run_is_that_of_a_proportion():
    expected = stats.binomtest(37, 100).proportion_ci(method="wilson")
    assert interval(point("plain", 37)) == pytest.approx((expected.low, expected.high), rel=1e-9)


def answers_of(logits: np.ndarray, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Draw answers (simulations, seeds, questions) of questions with these logits.

    `logits` are (simulations, seeds or 1, questions); a training seed shifts all of its questions,
    so that the accuracies of seeds spread by `spread`, beside what is due to the questions drawn.
    """
    shares = expit(logits)
    slope = (shares * (1 - shares)).mean()
    shifts = rng.normal(0, spread / slope, (*logits.shape[:2], 1))
    return (rng.random(logits.shape) < expit(logits + shifts)).astype(float)


def simulated(kind: str, simulations: int, seeds: int, questions: int) -> tuple[np.ndarray, float]:
    """Return values (simulations, seeds, questions) and the mean that their intervals should cover.

    Questions differ in difficulty about as much as those of the stored runs do, and seeds by 4.5
    points of accuracy. A gain is that of methods with the same true accuracy.
    """
    rng = np.random.default_rng(35)
    logits = rng.normal(0, 2, (simulations, 1, questions)).repeat(seeds, 1)
    answers = answers_of(logits, 0.045, rng)
    if kind == "accuracy":
        return answers, 0.5  # by symmetry
    return answers - answers_of(logits, 0.045, rng), 0.0


def pigeonhole_bootstrap(values: np.ndarray) -> Estimate:
    """Resample seeds and questions (Owen, Annals of Applied Statistics 2007): too narrow."""
    seeds, questions = values.shape
    rng = np.random.default_rng(0)
    of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), 199) / seeds
    of_questions = rng.multinomial(questions, np.full(questions, 1 / questions), 199) / questions
    low, high = np.quantile(((of_seeds @ values) * of_questions).sum(1), [0.025, 0.975])
    return Estimate(values.mean(), low, high, 1.0)


def coverage(method: Callable[[np.ndarray], Estimate], drawn: np.ndarray, truth: float) -> float:
    """Return the share of the simulations whose interval contains the truth."""
    found = [method(values) for values in drawn]
    return sum(one.low <= truth <= one.high for one in found) / len(found)


@pytest.mark.parametrize("questions", [300, 1000])
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("kind", ["accuracy", "gain"])
def test_intervals_cover_the_truth_in_at_least_93_percent(kind, seeds, questions):
    assert coverage(estimate, *simulated(kind, 300, seeds, questions)) >= 0.93


@pytest.mark.parametrize("kind", ["accuracy", "gain"])
def test_a_bootstrap_over_three_seeds_covers_less(kind):
    assert coverage(pigeonhole_bootstrap, *simulated(kind, 150, 3, 1000)) < 0.93


def test_an_estimate_combines_a_t_interval_over_seeds_with_one_over_questions():
    values = (np.random.default_rng(1).random((4, 60)) < [[0.5], [0.6], [0.7], [0.9]]) - 0.5
    found = estimate(values)
    squares = 0.0
    for means in (values.mean(1), values.mean(0)):
        high = stats.ttest_1samp(means, 0).confidence_interval(0.95).high
        squares += (high - values.mean()) ** 2
    assert found.mean == pytest.approx(values.mean())
    assert found.high - found.mean == pytest.approx(np.sqrt(squares))
    assert found.mean - found.low == pytest.approx(np.sqrt(squares))


def test_the_p_value_is_the_level_at_which_the_interval_reaches_0():
    """With equal questions it is that of a t test over the seeds, and the other way round."""
    of_seeds = np.array([[0.1], [0.3], [0.4]]).repeat(50, 1)
    assert estimate(of_seeds).p_value == pytest.approx(stats.ttest_1samp(of_seeds[:, 0], 0).pvalue)
    of_questions = np.random.default_rng(2).normal(0.2, 1, (1, 50)).repeat(3, 0)
    expected = stats.ttest_1samp(of_questions[0], 0).pvalue
    assert estimate(of_questions).p_value == pytest.approx(expected)
    values = np.random.default_rng(3).normal(size=(3, 50))
    for shift in (-1.0, 1.0):  # to where an end of the interval is 0
        half = estimate(values).high - values.mean()
        moved = values - values.mean() + shift * half
        assert estimate(moved).p_value == pytest.approx(0.05)


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.5, 0.0)])
def test_values_without_spread_have_a_p_value(value, p_value):
    assert estimate(np.full((3, 20), value)) == Estimate(value, value, value, p_value)


def test_one_question_says_nothing_about_others():
    with pytest.raises(UserError, match="at least 2 test questions, found 1; raise `sizes.test`"):
        interval(point("plain", 0, 1, questions=1))


def test_an_interval_over_seeds_contains_the_mean_and_stays_between_0_and_1():
    low, high = interval(point("plain", 0, 100))
    assert 0 == low < 0.5 < high == 1
    low, high = interval(point("plain", 60, 70, 65))
    assert 0 < low < 0.65 < high < 1


def test_a_gain_over_several_seeds_is_paired_by_seed_and_question():
    ours, theirs = point("taught", 60, 70, 65), point("plain", 50, 61, 54)
    found = gain(ours, theirs)
    matrix = np.array(ours.answers, float) - np.array(theirs.answers, float)
    assert found == estimate(matrix)
    assert found.mean == pytest.approx(0.1)
    assert gain(ours, point("plain", 50, 61)).mean == pytest.approx(0.095)  # the seeds of both


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
        ([0.5, 0.6, 0.02], [1.0, 1.0, 0.06]),
    ],
)
def test_p_values_are_corrected_for_their_number(given, expected):
    assert holm(given) == pytest.approx(expected)


def test_a_gain_of_one_run_is_paired_by_question():
    found = gain(point("taught", 60), point("plain", 50))
    gains = np.array([1.0] * 10 + [0.0] * 90)
    half = 1.96 * gains.std() / np.sqrt(100)
    assert found.mean == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.011)
    assert found.p_value == pytest.approx(2 * 0.5**10)


@pytest.mark.parametrize(
    ("student", "ceiling", "expected"),
    [(65, 80, 0.5), (50, 80, 0), (40, 90, -0.25), (60, 50, None)],
)
def test_the_headroom_is_a_share_of_the_ceilings_gain(student, ceiling, expected):
    points = point("taught", student), point("plain", 50), point("oracle", ceiling)
    assert headroom(*points) == pytest.approx(expected)


def test_the_baseline_has_no_gain_and_the_ceiling_no_headroom():
    points = [point("plain", 50, 60, 55), point("taught", 60, 70, 65), point("oracle", 75, 75, 75)]
    plain, taught, oracle = table(GRID, points)
    assert (plain["gain"], plain["p"], plain["headroom"]) == (None, None, None)
    assert (taught["gain"], taught["headroom"], taught["runs"]) == (0.1, 0.5, 3)
    assert oracle["gain"] == 0.2
    assert 0 < taught["p"] < 0.05
    assert oracle["headroom"] is None
    assert taught["each"] == "0.600 0.700 0.650"
    assert taught["epochs"] == "4 4 4"


def test_the_p_value_of_the_main_comparison_is_not_corrected():
    points = [point("plain", 50, 60, 55), point("taught", 60, 72, 65), point("oracle", 62, 75, 76)]
    alone = [gain(one, points[0]).p_value for one in points[1:]]
    named = GRID.model_copy(update={"main_comparison": "taught"})
    assert [row["p"] for row in table(GRID, points)[1:]] == pytest.approx(holm(alone), abs=1e-6)
    assert [row["p"] for row in table(named, points)[1:]] == pytest.approx(alone, abs=1e-6)
    assert holm(alone) != alone
    swept = [replace(one, value=1) for one in points]  # one of several values is not the main one
    assert [row["p"] for row in table(named, swept)[1:]] == pytest.approx(holm(alone), abs=1e-6)


def test_a_gain_compares_points_with_the_same_value():
    points = [
        point("plain", 50, value=1),
        point("plain", 60, value=2),
        point("taught", 70, value=2),
    ]
    assert [row["gain"] for row in table(GRID, points)] == [None, None, 0.1]


def test_a_drawing_is_the_same_bytes_and_names_every_method():
    rows = table(GRID, [point(name, 50, 60, 55) for name in GRID.methods])
    figure = Figure(seeds=[0, 1, 2])
    drawing = draw(figure, rows)
    assert drawing == draw(figure, rows)
    assert all(f">{name}<" in drawing for name in GRID.methods)
    assert "over 3 seeds" in drawing


def test_lines_are_drawn_at_every_value():
    points = [point(m, 50 + v, value=v) for m in ("plain", "taught") for v in (3, 5, 10)]
    figure = Figure(parameter="saliency.top_k", values=[3, 5, 10])
    drawing = draw(figure, table(GRID, points))
    assert all(f">{text}<" in drawing for text in ("3", "5", "10", "saliency.top_k", "taught"))


def answered(marks: str) -> list[dict]:
    return [
        {
            "id": f"test-{n}",
            "question": f"Is *{n}* <b>one</b>?\nSay.",
            "options": ["yes", "no"],
            "answer": "yes",
            "prediction": "yes" if mark == "1" else "no | <script>",
            "correct": mark == "1",
        }
        for n, mark in enumerate(marks)
    ]


def test_runs_of_a_figure_must_have_answered_the_same_questions():
    runs = [Run("methods", "plain", v, 0, (), f"{v}{n}", "kinship") for v in (1, 2) for n in (0, 1)]
    grouped = {("plain", 1): runs[:2], ("plain", 2): runs[2:]}
    other = [row | {"question": "Another?"} for row in answered("01")]
    same = {"10": answered("01"), "11": answered("11"), "20": other, "21": other}
    check_questions("methods", grouped, same)
    for wrong in (answered("01"), other + answered("1")):
        message = "figure methods: A, plain-2-0-21, and B, plain-2-0-20: .*same test questions"
        with pytest.raises(UserError, match=message):
            check_questions("methods", grouped, same | {"21": wrong})


@pytest.mark.parametrize("values", [[["one"], ["two"]], [0.5, 0.5], [1, ["one"]]])
def test_values_that_a_figure_would_show_alike_are_refused(values):
    with pytest.raises(ValidationError, match="two `values` are shown as the same number"):
        Figure(parameter="teachers", values=values)


def test_the_case_study_shows_where_methods_differ_most():
    answers = {
        "plain": [answered("0010"), answered("0010"), answered("1010")],
        "taught": [answered("1100"), answered("1100"), answered("1100")],
        "oracle": [answered("1111")] * 3,
    }
    text = case_study(GRID, answers)
    assert "taught does better on 2 of 4, worse on 1." in text
    assert text.index("test-1") < text.index("test-0") < text.index("test-2")
    assert "test-3" not in text
    assert "| plain | ✗ no \\| &lt;script&gt; | ✗ no \\| &lt;script&gt; | ✓ yes |" in text
    assert "Is \\*1\\* &lt;b&gt;one&lt;/b&gt;? Say. (yes, no)" in text
