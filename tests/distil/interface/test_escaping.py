import csv
import io
import os

import pytest
from markdown_it import MarkdownIt

from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.escaping import for_csv, for_markdown, for_terminal
from stages.distil.storage.csv_files import csv_text

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x9b31mred",
    "\x1b]0;title\x07",
    "a\x00b\x08c\x7fd",
    "\x1b]8;;http://x\x1b\\link",
    "right \u202eto left",
    "one\rtwo",
    "one\u2028two\x85three",
    "half \ud83d",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("lines", [True, False])
def test_nothing_in_a_message_acts_on_a_terminal(text, lines):
    shown = for_terminal(text, lines)
    assert shown.isprintable()
    assert shown.encode().decode() == shown


def test_a_message_shows_what_it_holds():
    assert for_terminal("\x1b[31mred é 漢 \u200d") == "\\x1b[31mred é 漢 \u200d"
    assert for_terminal("one\n  two\tthree") == "one two three"
    assert for_terminal("one\n  two\tthree\x1b", lines=True) == "one\n  two\tthree\\x1b"


@pytest.mark.parametrize("debug", [True, False])
@pytest.mark.parametrize(
    "error", [UserError("of \x1b[31mred\x9b1m"), OSError(2, "lost", "a\x1b]0;title\x07\ud83d")]
)
def test_no_error_sends_codes_to_the_terminal(capsys, error, debug):
    def fail():
        raise error

    assert report_errors("stage", debug, fail) == 1
    shown = capsys.readouterr().err
    assert shown.replace("\n", "").isprintable()
    assert "\\x1b" in shown
    assert ("Traceback" in shown) == debug


MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&lt;script&gt;",
    "![x](javascript:alert(1))",
    "[x](http://evil)",
    "<http://evil>",
    "a | b",
    "**bold** __bold__ *a* _a_ ~~gone~~",
    "`code` ``",
    "\\<script>",
    "\\\\<b>",
    "one\n\n<script>two</script>\n\n# Heading",
    "$x$ # y",
    "- - -",
    "[x]: http://evil",
]


@pytest.mark.parametrize("text", MARKUP)
def test_a_text_in_markdown_is_shown_as_it_is(text):
    page = f"| kind | n |\n|---|---|\n| {for_markdown(text)} | 1 |\n"
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(page)
    cells = [token for token in tokens if token.type == "inline"]
    assert [cell.content for cell in cells][-1] == "1"
    assert len(cells) == 4
    kinds = {child.type for child in cells[2].children}
    assert kinds <= {"text", "text_special"}
    shown = "".join(child.content for child in cells[2].children)
    assert shown == " ".join(text.split())


FORMULAS = ["=1+1", "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\n=1", "＝1+1"]


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(text):
    table = csv_text(["answer", "n"], [{"answer": text, "n": -1}])
    _, (cell, number) = csv.reader(io.StringIO(table, newline=""))
    assert (cell, number) == (f"'{text}", "-1")


def test_a_carriage_return_does_not_end_a_row():
    table = csv_text(["answer"], [{"answer": "one\r=1+1\x1b[31m"}])
    assert list(csv.reader(io.StringIO(table, newline=""))) == [["answer"], ["one\\r=1+1\\x1b[31m"]]


@pytest.mark.parametrize(
    "value", ["-5", "+3.5", "-1e-3", -0.25, None, "aunt", "a=b", "", "0.7 0.8"]
)
def test_numbers_and_plain_texts_stay_as_they_are(value):
    assert for_csv(value) == value


def test_a_file_name_with_codes_is_shown_escaped(tmp_path, capsys):
    name = tmp_path / "a\x1b[31m"
    report_errors("stage", False, lambda: os.listdir(name) and None)
    assert (
        capsys.readouterr().err
        == f"stage: error: {tmp_path}/a\\x1b[31m: No such file or directory\n"
    )
