"""The page as text, and in a browser."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from stages.distil.evaluation.statistics import score
from stages.distil.interface.method import STATUSES
from stages.distil.interface.parameters import load_parameters
from stages.distil.reporting.data_counts import DataCounts, RejectedKind
from stages.distil.reporting.failures import Failures, Part
from stages.distil.reporting.lessons import Taught, Written
from stages.distil.reporting.other_runs import read_methods
from stages.distil.reporting.page import page
from stages.distil.reporting.reading import NOTHING_SCORED, Results
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


def example(number: int, status: str, text: str | None, **changes) -> dict:
    row = {"question": f"Train {number}?", "options": ["red", "blue"], "answer": "red", "own": None}
    return row | {"id": f"train-{number}", "status": status, "rationale": text} | changes


@pytest.fixture
def results() -> Results:
    counts = {status: int(status == "ok") for status in STATUSES}
    right = score([True, False, True])
    predictions = [
        prediction(0, True),
        prediction(1, False, question=EVIL, prediction=EVIL),
        prediction(2, True, options=[], scores=[], answer="green"),
    ]
    return Results(
        metrics={
            "student": right
            | {"parameters": 2_000_000, "by_option": right, "classes": {"red": 0.5, "green": 1.0}}
            | {"words": {"f1": 0.25, "questions": 2}},
            "teachers": {
                "qwen-coder-1b5": {"rationales": counts | {"contradicts": 1}}
                | {"student_share": 0.1, "parameters": 2e7}
                | score([True, True, False]),
                "smollm2-135m": {"rationales": counts},
            },
            "saliency": {"overlap": 0.5, "chance": 0.25, "questions": 2},
        },
        failures=Failures(
            chance=0.5,
            outside=1,
            parts={
                "right answer": [
                    Part("red", score([True, False]), f"{EVIL} (1)"),
                    Part("green", score([True])),
                ]
            },
            confident=predictions[1:2],
        ),
        predictions=predictions,
        runs={
            "plain-0-0123456789": [
                {"prediction": "blue", "correct": False},
                {"prediction": "blue", "correct": False},
                {"prediction": "green", "correct": True},
            ]
        },
        teachers={
            "qwen-coder-1b5": Written(
                rows=[
                    rationale(0, "train", rationale=EVIL, status="ok"),
                    rationale(1, "train", rationale="No.", status="contradicts"),
                    rationale(0, "test", answer="blue"),
                    rationale(1, "test", answer="It is red."),
                    rationale(2, "test", answer=EVIL),
                ],
                lengths={"median": 7.5, "most": 8.7},
                examples={
                    "ok": [example(0, "ok", EVIL)],
                    "contradicts": [example(1, "contradicts", "No.", own=EVIL)],
                },
            ),
            "smollm2-135m": Written(
                rows=[rationale(0, "train", rationale="short", status="truncated")],
                lengths={},
                examples={"truncated": [example(0, "truncated", "sho", question=EVIL)]},
            ),
        },
        taught=Taught(2, 2, Counter({("qwen-coder-1b5", "ok"): 1}), 2),
        scored=scored(
            ("<img src=x> is red", [0.5, 0.1, 0.2, 1.0, -2.0], "red"),
            ("x y", [1, 0], EVIL),
        ),
        curves={
            "loss/total": [(1, 2.0), (2, 1.5)],
            "loss/answer": [(1, 1.0), (2, 0.5)],
            "validation/accuracy": [(2, 0.75)],
        },
        summary={"steps": 1_200, "epoch": 2, "accuracy": 0.75},
        tokens=[{"text": "context", "texts": 2, "tokens": 1_234, "median": 600, "longest": 634}],
        data=DataCounts(
            splits={"train": 2, "test": 3},
            rejected=[
                RejectedKind(
                    "answer: …", 4, {"source": EVIL, "row": 1, "reason": EVIL, "text": EVIL}
                )
            ],
            copies={"test": 1},
            closest=[("test", 0.875, EVIL, EVIL)],
        ),
        methods=read_methods(ROOT / "results/figures", "kinship"),
    )


@pytest.fixture
def html(results, write_params) -> str:
    results.scored.ids[:] = ["train-0", "train-1"]
    return page(load_parameters(write_params()), results)


def part(html: str, name: str) -> str:
    """Return a section of the page."""
    return html.partition(f'<section id="{name}"')[2].partition("</section>")[0]


def test_texts_are_escaped_and_only_the_pages_script_runs(html):
    assert html.count("<script>") == 1
    assert "<img" not in html
    assert "default-src 'none'" in html
    for section in ("failures", "answers", "taught", "data"):
        assert "&lt;img src=x onerror=" in part(html, section)


def test_the_same_results_give_the_same_bytes(html, results, write_params):
    assert page(load_parameters(write_params()), results) == html


def test_the_run_comes_first_and_other_runs_last(html):
    order = ["results", "failures", "answers", "taught", "training", "data", "methods"]
    assert [each.split('"')[0] for each in html.split('<section id="')[1:]] == order
    assert all(f'<a href="#{name}">' in html for name in order)


def test_every_way_of_answering_has_a_picture_of_its_interval(html):
    first = part(html, "results")
    names = ["student", "student, most probable option", "qwen-coder-1b5, zero-shot"]
    rows = first.split('<tr><th scope="row">')[1:]
    assert [row.partition("</th>")[0] for row in rows] == names
    assert all('class="point" style="left: 66.7%"' in row for row in rows)
    assert all('class="chance" style="left: 50.0%"' in row for row in rows)
    assert "<strong>0.500</strong><span>by chance" in first
    assert "<td>10.0 %</td>" in first


def test_where_the_student_fails_is_shown_with_its_usual_mistake(html):
    failures = part(html, "failures")
    assert "1 of the student's 3 answers is none of the options." in failures
    assert "By right answer" in failures
    assert "<td>1 of 2</td><td>&lt;script&gt;" in failures
    assert failures.count("<article>") == 1  # the most confident wrong answer


def test_words_are_shaded(html):
    assert '<mark class="s8 negative" title="-2">red</mark>' in html


def test_questions_have_the_attributes_that_filter_them(html):
    def values(section: str, name: str) -> list[str]:
        return [each.split('"')[0] for each in part(html, section).split(f'data-{name}="')[1:]]

    assert values("taught", "kinds") == ["ok truncated", "contradicts"]
    assert values("answers", "kinds") == ["right alone", "wrong missed", "right alone"]
    assert values("answers", "answer") == ["1", "1", "0"]  # green, red
    assert values("answers", "changed") == ["0 1", "0", "0"]  # the teacher, the stored run
    assert values("answers", "runs") == ["1", "1", "-"]


def test_rationales_are_shown_by_status_with_examples(html):
    taught = part(html, "taught")
    assert "qwen-coder-1b5: contradicts</h4><p>No.</p>" in taught
    assert "smollm2-135m: truncated</h4><p>short</p>" in taught
    counted = '<th scope="row">qwen-coder-1b5</th><td>{}</td><td>1</td><td>{}</td>'
    assert counted.format("ok", 1) in taught
    assert counted.format("contradicts", 0) in taught
    examples = [each.partition(":")[0] for each in taught.split("<summary>")[1:]]
    assert examples == ["ok", "truncated", "contradicts"]


def test_the_overlap_with_the_answer_is_left_out_where_it_says_nothing(results, write_params):
    """Of a rationale, the words before its conclusion are scored."""
    sentence = "A word of the answer is among them for 50.0 % of the questions (25.0 % by chance)."
    pages = {
        of: page(load_parameters(write_params({"saliency/of": of})), results)
        for of in ("question", "rationale", "both")
    }
    assert [of for of, html in pages.items() if sentence in html] == ["question", "both"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("gold", "The answers are those of the data set."),
        ("vote", "The answers are what most of the teachers answer."),
        ("qwen-coder-1b5", "The answers are those of qwen-coder-1b5."),
    ],
)
def test_the_page_says_which_answers_were_taught(results, write_params, labels, sentence):
    changes = {"assemble/labels": labels, "rationales/teacher_forcing": labels == "gold"}
    changes["saliency/target"] = "prediction"
    assert sentence in page(load_parameters(write_params(changes)), results)


def test_the_training_has_steps_and_tokens_and_no_times(html):
    training = part(html, "training")
    assert "1,200 optimiser steps. Epoch 2 was kept, with an accuracy of 0.750" in training
    assert '<th scope="row">context</th><td>2</td><td>1,234</td>' in training
    assert "results/times/" in training
    assert training.count("<svg") == 2
    assert "currentColor" in training


def test_data_has_counts_rejected_rows_and_leaks(html):
    data = part(html, "data")
    assert '<th scope="row">test</th><td>3</td><td>1 (33.3 %)</td>' in data
    assert '<td class="text">answer: …</td><td>4</td>' in data
    assert "<td>test</td><td>0.88</td>" in data


def test_other_runs_have_their_tables_and_the_accuracy_of_this_run(html):
    methods = part(html, "methods")
    assert "full: methods" in methods
    assert 'class="own" style="left: 66.7%"' in methods
    swept = [
        file
        for file in (ROOT / "results/figures").glob("sweeps/*.svg")
        if "methods" not in file.name
    ]
    assert methods.count("<svg") == len(swept)  # the others are tables with intervals


def test_the_reasoning_behind_an_answer_is_shown(html, results, write_params):
    assert "after reasoning" not in html
    reasoned = {"reasoning": EVIL, "reasoning_tokens": 9}
    reasoned |= {"direct_prediction": "blue", "direct_correct": False}
    metrics = json.loads(json.dumps(results.metrics))
    right = score([True, False, True])
    metrics["student"] |= {
        "direct": right,
        "reasoned": right | {"tokens": 9.5, "unanswered": 1},
        "voted": right | {"samples": 5},
        "reasoning": {"f1": 0.75, "questions": 2},
    }
    changed = replace(
        results, metrics=metrics, predictions=[prediction(0, True, **reasoned)], runs={}
    )
    html = page(load_parameters(write_params()), changed)
    for name in ("student, after reasoning", "student, directly", "student, vote of 5 drawn texts"):
        assert f'<th scope="row">{name}</th>' in html
    assert "reasons in 9.5 tokens on average; 1 of its texts give no answer" in html
    assert "<h4>student, after 9 tokens of reasoning</h4><p>&lt;script&gt;" in html
    assert "<h4>student, directly</h4><p><strong>blue</strong>" in html
    assert "that it was taught with F1 0.75" in html
    assert "No stored run of" in html
    assert "<img" not in html


def test_missing_results_are_left_out(results, write_params):
    metrics = json.loads(json.dumps(results.metrics))
    for name in ("by_option", "words", "parameters"):
        del metrics["student"][name]
    metrics |= {"teachers": {}, "saliency": {}}
    metrics["student"]["classes"] = {}
    bare = replace(
        results,
        metrics=metrics,
        failures=Failures(None, 0, {}, []),
        predictions=[],
        runs={},
        teachers={},
        scored=NOTHING_SCORED,
        curves={},
        summary={},
        tokens=[],
        data=DataCounts({"train": 2}, [], {}, []),
        methods=[],
    )
    parameters = load_parameters(write_params({"teachers": [], "saliency/weight": 0}))
    html = page(parameters, bare)
    assert "The student was not trained." in html
    assert "Taught by no teacher" in html
    assert "Other runs" not in html
    assert "by chance" not in html
    assert "Rationales by teacher" not in html
    assert "No train question nearly repeats one of validation or test." in html


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


# The smallest contrast of a text with what is behind it; images of plots are left out.
LEAST_CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const over = (top, below) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map((n) => alpha * top[n] + (1 - alpha) * below[n]);
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    return over(parse(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let least = 21;
  for (const element of document.querySelectorAll("body *:not(svg *, script, option, optgroup)")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    const back = behind(element);
    const values = [over(parse(getComputedStyle(element).color), back), back].map(light);
    least = Math.min(least, (Math.max(...values) + 0.05) / (Math.min(...values) + 0.05));
  }
  return least;
}"""


def open_page(browser, html, folder, width, watch=lambda shown: None, **settings):
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    shown = browser.new_page(viewport={"width": width, "height": 800}, **settings)
    watch(shown)
    shown.goto(file.as_uri())
    return shown


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_read(browser, html, tmp_path, width, scheme):
    shown = open_page(browser, html, tmp_path, width, color_scheme=scheme)
    shown.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate(LEAST_CONTRAST) >= 4.5  # WCAG 2, level AA


def test_without_scripts_everything_is_visible(browser, html, tmp_path):
    shown = open_page(browser, html, tmp_path, 390, java_script_enabled=False)
    assert shown.locator("#answers article:visible").count() == 3
    assert shown.locator(".filter:visible").count() == 0


def test_the_page_works_in_a_browser_without_a_network(browser, html, tmp_path):
    errors, requests = [], []

    def watch(shown):
        shown.on("console", lambda message: errors.append(message.text))
        shown.on("pageerror", lambda error: errors.append(str(error)))
        shown.on("request", lambda request: requests.append(request.url))

    shown = open_page(browser, html, tmp_path, 390, watch)
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
    shown.keyboard.press("ArrowDown")  # wrong only
    assert count.inner_text() == "1 of 3 questions"
    assert shown.locator("#answers article:visible").count() == 1
    assert shown.locator("#taught article:visible").count() == 2

    assert shown.evaluate("window.injected") is None
    assert errors == []
    assert requests == [(tmp_path / "report.html").as_uri()]


def test_answers_are_filtered_by_class_and_by_what_has_changed(browser, html, tmp_path):
    shown = open_page(browser, html, tmp_path, 1280)
    answer, changed, kinds = (
        shown.locator(f"#answers select[name={name}]") for name in ("answer", "changed", "kinds")
    )
    answer.select_option(label="red")
    assert shown.locator("#answers article:visible").count() == 2
    changed.select_option(label="plain-0-0123456789")
    assert shown.locator("#answers article:visible").count() == 1
    assert shown.locator("#answers p[data-runs]:visible").inner_text() == "plain-0-0123456789: blue"
    kinds.select_option(label="wrong only")
    assert shown.locator("#answers article:visible").count() == 0
    changed.select_option(label="qwen-coder-1b5")
    assert shown.locator("#answers article:visible").count() == 1
    assert shown.locator("#answers p[data-runs]:visible").count() == 0
    shown.locator("#taught select").select_option(label="a rationale that is contradicts")
    assert shown.locator("#taught output").inner_text() == "1 of 2 questions"
