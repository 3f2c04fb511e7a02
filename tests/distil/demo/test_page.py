"""The page in a browser, with a tiny student behind it."""

import pytest

from stages.distil.demo.page import Page, build, serve
from tests.distil.demo.test_asking import EVIL, train_tiny
from tests.distil.reporting.test_page import LEAST_CONTRAST, browser  # noqa: F401


@pytest.fixture(scope="module")
def address(tmp_path_factory, tiny_model):
    """Where the page is served."""
    pytest.importorskip("gradio", reason="`make gradio` installs it")
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.chdir(folder)
        blocks = build(Page(train_tiny(folder, tiny_model, student__form="before_answer")))
        yield serve(blocks, wait=False)
        blocks.close()


@pytest.fixture
def shown(browser, address):  # noqa: F811
    """The page at a phone's width, and what went wrong or was fetched since."""
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.errors, page.requests = [], []
    page.on("console", lambda each: each.type == "error" and page.errors.append(each.text))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(address)
    page.get_by_role("button", name="Ask").wait_for()
    yield page
    page.close()


def ask(page):
    page.get_by_role("button", name="Ask").click()
    page.locator("#reply h2, #reply .no").first.wait_for()


def test_a_question_is_typed_and_answered_without_a_network(shown, address):
    shown.get_by_label("Question", exact=True).fill(f"Which colour? {EVIL}")
    shown.get_by_label("Options").fill(f"{EVIL}\nred")
    ask(shown)
    headings = shown.locator("#reply h2").all_inner_texts()
    assert headings == [
        "Answer after reasoning",
        "Answer directly",
        "Its salient words",
        "The nearest train question",
    ]
    assert shown.locator("#reply table").first.locator("th").all_inner_texts() == [EVIL, "red"]
    assert shown.evaluate("window.injected") is None
    assert shown.evaluate("document.documentElement.scrollWidth") <= 390
    assert [url for url in shown.requests if not url.startswith((address, "data:"))] == []
    assert shown.errors == []


def test_a_test_question_is_picked(shown):
    shown.get_by_label("A test question").click()
    shown.get_by_role("option").nth(3).click()
    question = shown.get_by_label("Question", exact=True)
    shown.wait_for_function("document.querySelector('textarea').value !== ''")
    assert question.input_value() == f"Which colour has {EVIL}?"
    assert shown.get_by_label("Options").input_value() == "red\ngreen\nblue"
    ask(shown)
    assert "The right answer is red." in shown.locator("#reply").inner_text()
    assert shown.evaluate("window.injected") is None


def test_an_error_is_one_line_and_a_next_question_replaces_it(shown):
    ask(shown)
    assert shown.locator("#reply").inner_text() == "the question is empty; type one"
    shown.get_by_label("Question", exact=True).fill("Where is it?")
    shown.get_by_role("button", name="Ask").click()
    shown.locator("#reply h2").first.wait_for()
    assert shown.locator("#reply .no").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_reply_can_be_read(browser, address, scheme):  # noqa: F811
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page.goto(address)
    page.get_by_label("Question", exact=True).fill("Where is it?")
    page.get_by_label("Options").fill("here\nthere")
    ask(page)
    contrast = LEAST_CONTRAST.replace('"body *', '"#reply *')
    assert contrast != LEAST_CONTRAST
    assert page.evaluate(contrast) >= 4.5  # WCAG 2, level AA
    page.close()
