"""The command `make own`: what it prints, asks and writes."""

import difflib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from dvc.utils.hydra import apply_overrides

from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.proposals import own as command
from stages.distil.proposals.own import own
from tests.conftest import BARE, PARAMS, ROOT

BIRDS = ["heron", "snipe", "teal"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the project's params.yaml, and questions.jsonl."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", open("/dev/null"))
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    write(tmp_path, lambda n: {"answer": BIRDS[n % 3], "rationale_owl": f"It is {BIRDS[n % 3]}."})
    return tmp_path


def write(folder, make, count=30):
    rows = [
        {"id": n, "question": f"Which bird nests at {n}?", "options": BIRDS} | make(n)
        for n in range(count)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_entry_and_its_teachers_are_added_and_nothing_else_changes(project, capsys):
    before = (project / "params.yaml").read_text().splitlines()
    own("questions.jsonl", "", "", True)
    after = (project / "params.yaml").read_text().splitlines()
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-?"]
    assert changes == [
        "+   owl:",
        "+     source: provided",
        *(
            f"+ {line}"
            for line in [
                "  questions:",
                "    source: files",
                "    folder: .",
                "    splits:",
                "      train: questions.jsonl",
                "    hold_out:",
                "      validation: 3",
                "      test: 3",
                "    fields:",
                "      answer_is: text",
                "      rationales:",
                "        owl: rationale_owl",
            ]
        ),
    ]
    out = capsys.readouterr().out
    assert "1. Which bird nests at 0?\n   - heron\n   - snipe\n   - teal\n   answer: heron\n" in out
    assert "rationale of owl: It is heron." in out
    assert "train: 30 of 30" in out and "30 answer by text" in out
    load_parameters("params.yaml")


def test_the_commands_that_come_next_are_valid(project, capsys):
    own("questions.jsonl", "birds", "", True)
    commands = re.findall(r"^  (\.venv/bin/dvc exp run .*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) == 3
    for line in commands:
        words = shlex.split(line)
        shutil.copy("params.yaml", "changed.yaml")
        changes = [value for flag, value in zip(words, words[1:], strict=False) if flag == "-S"]
        apply_overrides("changed.yaml", changes)
        assert load_parameters("changed.yaml").data.name == "birds"


def test_without_a_terminal_nothing_is_written_unless_it_is_confirmed(project, capsys):
    before = (project / "params.yaml").read_bytes()
    own("questions.jsonl", "", "", False)
    assert "not written: run it in a terminal to be asked, or with YES=1" in capsys.readouterr().out
    assert (project / "params.yaml").read_bytes() == before


class Terminal(io.StringIO):
    """Standard input with a person's reply."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("reply", "written"), [("y\n", True), ("\n", False), ("", False)])
def test_in_a_terminal_the_user_is_asked(project, monkeypatch, capsys, reply, written):
    monkeypatch.setattr("sys.stdin", Terminal(reply))
    own("questions.jsonl", "", "", False)
    assert "Write datasets.questions into params.yaml? [y/N]" in capsys.readouterr().out
    assert ("questions" in load_parameters("params.yaml").datasets) == written


def test_a_name_that_exists_is_refused_unless_the_entry_is_the_same(project, capsys):
    own("questions.jsonl", "birds", "", True)
    before = (project / "params.yaml").read_bytes()
    own("questions.jsonl", "birds", "", True)
    assert "params.yaml has this entry already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"datasets.arc is there already, with other settings"):
        own("questions.jsonl", "arc", "", True)
    assert (project / "params.yaml").read_bytes() == before


def test_each_command_of_a_question_decides_it(project, capsys):
    write(project, lambda n: {"label $1's": BIRDS[n % 3], "label 2": BIRDS[n % 2]})
    with pytest.raises(UserError, match="nothing is written; run one of these commands"):
        own("questions.jsonl", "birds", "id=id", True)
    out = capsys.readouterr().out
    assert "Which is right? questions.jsonl, row 3, has the answer\n  teal\n" in out
    commands = re.findall(r"with  make own (.*)", out)
    assert len(commands) == 2
    for line, answer in zip(commands, ["teal", "heron"], strict=True):
        # make reads `$$` as `$`; the shell and then SET undo their quotes.
        variables = dict(word.split("=", 1) for word in shlex.split(line))
        settings = variables["SET"].replace("$$", "$")
        assert variables["DATA"] == "questions.jsonl" and variables["ENTRY"] == "birds"
        own(variables["DATA"], f"from-{answer}", settings, True)
        assert (
            f"3. Which bird nests at 2?\n   - heron\n   - snipe\n   - teal\n   answer: {answer}"
            in (capsys.readouterr().out)
        )


def test_what_make_passes_on_is_what_was_printed(tmp_path):
    """A column's name comes from outside, and is in a command that the user is to copy."""
    recipe = next(
        line for line in (ROOT / "Makefile").read_text().splitlines() if "proposals.own" in line
    )
    own_recipe = recipe.replace("$(BIN)/python", f"{sys.executable} print.py")
    (tmp_path / "Makefile").write_text(f"own:\n{own_recipe}\n")
    (tmp_path / "print.py").write_text("import json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    value = command._for_make("answer='a $(shell touch bad) `touch bad` \"b'")
    line = f"make own DATA=q.csv SET={value} YES=1"
    result = subprocess.run(["sh", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    given = json.loads(result.stdout)
    assert given[given.index("--set") + 1] == "answer='a $(shell touch bad) `touch bad` \"b'"
    assert given[-3:] == ["--yes", "--", "q.csv"]
    assert not (tmp_path / "bad").exists()


def test_nothing_in_the_files_acts_on_the_terminal(project, capsys):
    row = {"id": "x\x1b[2J", "question": "Who?\x1b[31m", "options": BIRDS, "answer": "teal"}
    with (project / "questions.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    own("questions.jsonl", "", "", False)
    out = capsys.readouterr().out
    assert "refused rows (1 of 1)" in out and "questions.jsonl, row 31: " in out
    assert "data.max_rejected allows 1% of the rows" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "own: error: DATA is missing; name a file or folder"),
        (["gone.csv"], "own: error: gone.csv: no such file or folder; set DATA"),
        (["questions.jsonl", "--set", "anwser=x"], "own: error: SET: unknown field 'anwser'"),
        (["questions.jsonl", "--set", "answer"], "own: error: SET: expected FIELD=VALUE"),
        (["questions.jsonl", "--set", "answer_is=word"], "own: error: SET: answer_is: expected"),
        (["questions.jsonl", "--entry", "a.b"], "own: error: ENTRY: expected letters, digits"),
        (["params.yaml"], "own: error: params.yaml: unknown format '.yaml'"),
        (["questions.jsonl", "--set", "answer=bird"], "own: error: questions.jsonl: "),
    ],
)
def test_an_error_is_one_line(project, arguments, message):
    result = subprocess.run(
        [sys.executable, "-m", "stages.distil.proposals.own", *arguments],
        env=BARE,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(message), result.stderr
    assert result.stderr.count("\n") == 1
