"""The page as text, and in a browser."""

import json
import shutil
from dataclasses import replace

import pytest

from stages.distil.evaluation.statistics import score
from stages.distil.interface.method import STATUSES
from stages.distil.interface.parameters import load_parameters
from stages.distil.reporting.page import Results, page, read_curves, read_methods
from tests.conftest import ROOT
from tests.distil.evaluation.test_salient_words import scored

EVIL = "<script>window.injected = true</script><img src=x onerror='window.injected = 1'>"


def prediction(number: int, right: bool, **changes) -> dict:
    row = {"id": f"test-{number}", "question": f"Which {number}?", "options": ["red", "blue"]}
    row |= {"answer": "red", "prediction": "red" if right else "blue", "correct": right}
    return row | {"scores": [-0.5, -1.25]} | changes


def rationale(number: int, split: str, **changes) -> dict:
    row = {"id": f"{split}-{number}", "split": split, "rationale": None, "status": None}
    row |= {"answer": None, "output_tokens": 7 + number}
    return row | changes


@pytest.fixture
def results() -> Results:
    counts = {status: int(status == "ok") for status in STATUSES}
    right = score([True, False, True])
    return Results(
        metrics={
            "student": right
            | {"parameters": 2_000_000, "by_option": right, "classes": {"red": 0.5}}
            | {"words": {"f1": 0.25, "questions": 2}},
            "teachers": {
                "qwen-coder-1b5": {"rationales": counts, "student_share": 0.1, "parameters": 2e7}
                | score([True, True, False]),
                "smollm2-135m": {"rationales": counts},
            },
            "saliency": {"overlap": 0.5, "chance": 0.25, "questions": 2},
        },
        curves={
            "loss/total": [(1, 2.0), (2, 1.5)],
            "loss/answer": [(1, 1.0), (2, 0.5)],
            "validation/accuracy": [(2, 0.75)],
        },
        methods=read_methods(ROOT / "results/figures", "kinship"),
        predictions=[
            prediction(0, True),
            prediction(1, False, question=EVIL, prediction=EVIL),
            prediction(2, True, options=[], scores=[]),
        ],
        teachers={
            "qwen-coder-1b5": [
                rationale(0, "train", rationale=EVIL, status="ok"),
                rationale(1, "train", rationale="No.", status="contradicts"),
                rationale(0, "test", answer="blue"),
                rationale(1, "test", answer="It is red."),
                rationale(2, "test", answer=EVIL),
            ],
            "smollm2-135m": [rationale(0, "train", rationale="short", status="truncated")],
        },
        lengths={"qwen-coder-1b5": {"median": 7.5, "most": 8.7}, "smollm2-135m": {}},
        scored=scored(
            ("<img src=x> is red", [0.5, 0.1, 0.2, 1.0, -2.0], "red"),
            ("x y", [1, 0], EVIL),
        ),
        trained=2,
        near_copies={
            "repeated": {"questions": 2, "accuracy": 0.5},
            "new": {"questions": 1, "accuracy": 1.0},
        },
    )


@pytest.fixture
def html(results, write_params) -> str:
    results.scored.ids[:] = ["train-0", "train-1"]
    return page(load_parameters(write_params()), results)


def test_texts_are_escaped_and_only_the_pages_script_runs(html):
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert "default-src 'none'" in html


def test_the_same_results_give_the_same_bytes(html, results, write_params):
    assert page(load_parameters(write_params()), results) == html


def test_words_are_shaded(html):
    assert '<mark class="s8 negative" title="-2">red</mark>' in html


def test_questions_have_the_kinds_that_filter_them(html):
    kinds = [part.split('"')[0] for part in html.split('data-kinds="')[1:]]
    assert kinds == ["ok truncated", "contradicts", "right alone", "wrong missed", "right alone"]


def test_questions_that_a_train_question_nearly_repeats_are_told_apart(html):
    assert "repeats 2 of the test questions: the student is right on\n50.0 % of these" in html
    assert "and on 100.0 % of the 1 others." in html


def test_rationales_are_shown_with_their_status(html):
    assert "qwen-coder-1b5: contradicts</h3><p>No.</p>" in html
    assert "smollm2-135m: truncated</h3><p>short</p>" in html


def test_the_reasoning_behind_an_answer_is_shown(html, results, write_params):
    assert "reasoning" not in html
    reasoned = {"reasoning": EVIL, "reasoning_tokens": 9}
    reasoned |= {"direct_prediction": "blue", "direct_correct": False}
    changed = replace(results, predictions=[prediction(0, True, **reasoned)])
    html = page(load_parameters(write_params()), changed)
    assert "the student's reasoning (9 tokens)" in html
    assert "student, after reasoning: red" in html
    assert "student, directly: blue" in html
    assert "<img" not in html


def test_missing_metrics_are_left_out(results, write_params):
    metrics = json.loads(json.dumps(results.metrics))
    for name in ("by_option", "classes", "words"):
        del metrics["student"][name]
    metrics["student"]["classes"] = {}
    bare = replace(results, metrics=metrics, curves={}, methods=[])
    html = page(load_parameters(write_params()), bare)
    assert "The student was not trained." in html
    assert "Methods" not in html
    assert "by right answer" not in html


def test_curves_are_read_by_name(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss/total.tsv").write_text("step\ttotal\n3\t1.5\n6\t1.25\n")
    assert read_curves(tmp_path) == {"loss/total": [(3, 1.5), (6, 1.25)]}
    assert read_curves(tmp_path / "nowhere") == {}


COLUMNS = "method,value,accuracy,low,high,runs,gain,gain_low,gain_high,headroom,each"
METHOD_ROWS = [
    "plain,3,0.25,0.2,0.3,1,,,,,0.250",
    "taught,3,0.5,0.4,0.6,1,0.25,0.1,0.4,0.5,0.500",
]


def test_methods_are_shown_with_every_plot_of_their_scale(html, tmp_path):
    for name in ("methods", "alpha"):
        (tmp_path / f"figures/tiny/{name}.csv").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"figures/tiny/{name}.csv").write_text("\n".join([COLUMNS, *METHOD_ROWS]))
        (tmp_path / f"figures/tiny/{name}.svg").write_text(f"<?xml?><svg>{name}</svg>")
    [tiny] = read_methods(tmp_path / "figures", "kinship")
    assert tiny.scale == "tiny"
    assert {name: plot for name, (_, plot) in tiny.figures.items()} == {
        "methods": "<svg>methods</svg>",
        "alpha": "<svg>alpha</svg>",
    }
    assert [row["each"] for row in tiny.figures["alpha"][0]] == ["0.250", "0.500"]
    assert read_methods(tmp_path / "nowhere", "kinship") == []
    assert "full: methods" in html
    assert "Other trainings on kinship" in html


def test_methods_are_shown_only_for_their_own_data_set(tmp_path):
    of = {"methods": ["arc"], "alpha": ["kinship"], "data": ["arc", "kinship"]}
    (tmp_path / "figures/tiny").mkdir(parents=True)
    (tmp_path / "figures/tiny/data.json").write_text(json.dumps(of))
    for name in of:
        (tmp_path / f"figures/tiny/{name}.csv").write_text("\n".join([COLUMNS, *METHOD_ROWS]))
        (tmp_path / f"figures/tiny/{name}.svg").write_text("<svg></svg>")
    shown = {
        data: [[*scale.figures] for scale in read_methods(tmp_path / "figures", data)]
        for data in ("arc", "kinship", "obqa")
    }
    assert shown == {"arc": [["methods"]], "kinship": [["alpha"]], "obqa": []}
    assert read_methods(ROOT / "results/figures", "arc") == []  # the committed ones are kinship's


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="`make browser` installs it")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium found")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_the_page_works_in_a_browser_without_a_network(browser, html, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    errors, requests = [], []
    shown = browser.new_page(viewport={"width": 390, "height": 800})
    shown.on("console", lambda message: errors.append(message.text))
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(file.as_uri())
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    plots = len(list((ROOT / "results/figures").glob("*/*.svg")))
    assert shown.locator("svg").count() == 2 + plots

    focused = "document.activeElement.matches('#answers input')"
    presses = iter(range(50))
    while not shown.evaluate(focused):
        assert next(presses, None) is not None, "the search cannot be reached by keyboard"
        shown.keyboard.press("Tab")
    shown.keyboard.type("WHICH 0")
    count = shown.locator("#answers output")
    assert count.inner_text() == "1 of 3 questions"
    shown.keyboard.press("Control+A")
    shown.keyboard.press("Backspace")
    assert count.inner_text() == "3 of 3 questions"
    shown.keyboard.press("Tab")
    shown.keyboard.press("ArrowDown")  # student right
    assert count.inner_text() == "2 of 3 questions"
    assert shown.locator("#answers article:visible").count() == 2
    assert shown.locator("#taught article:visible").count() == 2

    assert shown.evaluate("window.injected") is None
    assert errors == []
    assert requests == [file.as_uri()]
