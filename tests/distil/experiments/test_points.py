import numpy as np
import pytest
from scipy import stats

from stages.distil.experiments.figures import case_study, draw
from stages.distil.experiments.plan import Figure, Grid
from stages.distil.experiments.points import Point, estimate, gain, headroom, holm, interval, table

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


def test_an_estimate_draws_seeds_and_questions_anew():
    """Against a plain bootstrap that draws one resample at a time."""
    drawn = np.random.default_rng(1)
    values = (drawn.random((4, 60)) < np.array([[0.5], [0.6], [0.7], [0.9]])) - 0.5
    rng = np.random.default_rng(2)
    means = [
        np.mean(values[rng.integers(0, 4, 4)][:, rng.integers(0, 60, 60)]) for _ in range(20_000)
    ]
    found = estimate(values)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(means, [0.025, 0.975])), abs=0.02
    )
    assert found.p_value == pytest.approx(2 * np.mean(np.array(means) <= 0), abs=0.01)


def test_an_effect_of_chance_is_seldom_significant_and_a_large_one_is():
    drawn = np.random.default_rng(3)
    p_values = [estimate(drawn.choice([-1.0, 0.0, 1.0], (3, 100))).p_value for _ in range(40)]
    assert sum(p < 0.05 for p in p_values) <= 4
    assert estimate(drawn.choice([0.0, 1.0], (3, 100))).p_value < 0.001


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
