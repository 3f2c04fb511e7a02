"""Propose the entry of your own data set and write it into params.yaml: `make own DATA=FILE`."""

import io
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from stages.distil.interface.catalogue import Fields, Files
from stages.distil.interface.command import command_line
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.escaping import for_terminal
from stages.distil.interface.messages import unknown_name
from stages.distil.interface.parameters import Parameters, load_parameters
from stages.distil.interface.paths import PARAMETERS, read_text
from stages.distil.interface.settings import check_settings
from stages.distil.proposals.proposal import Proposal, propose
from stages.distil.proposals.splits import NAMES
from stages.distil.proposals.trials import Mapped, Reading
from stages.distil.questions.reading import ORDER
from stages.distil.storage.examples import Example
from stages.distil.storage.tables import write_text

LONGEST_SHOWN = 300  # characters of a text
MOST_OPTIONS = 10  # shown of a question
WIDTH = 4096  # of a line of YAML, so that none is folded
SPECIAL = re.compile(r"[\s'\"\\]")  # in a word of SET


def own(data: str, entry: str, settings: str, confirmed: bool) -> None:
    """Print the proposed entry for a file or folder, and write it if the user agrees.

    `entry` is its name, or empty; `settings` are fields, as in SET. Raises `UserError` if no
    mapping reads the rows, if the user has to choose, or if the name is taken.
    """
    if not data:
        raise UserError("DATA is missing; name a file or folder: make own DATA=questions.csv")
    parameters = load_parameters(PARAMETERS)
    name = entry or _name_of(Path(data))
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        raise UserError(f"ENTRY: expected letters, digits, - and _ alone, found {name!r}")
    proposal = propose(Path(data), _given(settings), parameters.data.max_characters)
    _show(name, proposal, parameters)
    if proposal.choices:
        _show_choices({"DATA": data, "ENTRY": entry}, settings, proposal)
        raise UserError("nothing is written; run one of these commands")
    known = parameters.datasets.get(name)
    if known == check_settings(proposal.entry, Files, f"datasets.{name}"):
        print(f"\n{PARAMETERS} has this entry already.")
        _show_next(name, proposal, parameters)
        return
    if known is not None:
        raise UserError(
            f"{PARAMETERS}: datasets.{name} is there already, with other settings; choose another "
            "name, as in ENTRY=mine, or remove that entry"
        )
    if not confirmed and not _agrees(name):
        return
    _write(name, proposal, parameters)
    print(f"\nwrote datasets.{name} into {PARAMETERS}")
    _show_next(name, proposal, parameters)


def _name_of(path: Path) -> str:
    """Return a name for the entry: that of the file or folder, unless a split has that name."""
    path = path.absolute()
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    if any(stem.lower() in names for names in NAMES.values()):
        stem = path.parent.name
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "mine"


def _given(settings: str) -> Mapped:
    """Return the fields of SET: words such as answer=label2, whose values are YAML."""
    try:
        words = shlex.split(settings)
    except ValueError as error:
        raise UserError(f"SET: {settings}: {error}") from None
    given: Mapped = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"SET: expected FIELD=VALUE, such as answer=label, found {word!r}")
        if key not in Fields.model_fields:
            raise UserError(f"SET: {unknown_name(key, Fields.model_fields, 'field')}")
        try:
            given[key] = YAML(typ="safe", pure=True).load(text)
        except (YAMLError, ValueError):
            raise UserError(f"SET: {key}: expected a value as in YAML, found {text!r}") from None
    check_settings({key: value for key, value in given.items() if value != []}, Fields, "SET")
    return given


def _show(name: str, proposal: Proposal, parameters: Parameters) -> None:
    """Print the entry, what it reads and refuses, and what the user should know."""
    print(for_terminal(_yaml({"datasets": {name: proposal.entry}}), lines=True), end="")
    _show_counts(proposal.reading)
    for number, question in enumerate(proposal.reading.questions, start=1):
        _show_question(number, question)
    _show_refused(proposal.reading, parameters.data.max_rejected)
    if proposal.notes:
        print("\nnotes:")
    for note in proposal.notes:
        print(f"  {_shown(note)}")


def _show_counts(reading: Reading) -> None:
    print("\nrows read:")
    for split in reversed(ORDER):
        if rows := reading.read[split] + reading.refused[split] + reading.repeated[split]:
            others = {"refused": reading.refused[split], "repeated": reading.repeated[split]}
            notes = "".join(f", {count:,} {kind}" for kind, count in others.items() if count)
            print(f"  {split}: {reading.read[split]:,} of {rows:,}{notes}")
    forms = [f"{count:,} {note}" for note, count in reading.tally.items() if " by " in note]
    if forms and reading.questions[0].options:
        print(f"  {', '.join(forms)}")


def _show_question(number: int, question: Example) -> None:
    print(f"\n{number}. {_shown(question.question)}")
    for option in question.options[:MOST_OPTIONS]:
        print(f"   - {_shown(option)}")
    if (more := len(question.options) - MOST_OPTIONS) > 0:
        print(f"   … and {more} more options")
    print(f"   answer: {_shown(question.answer)}")
    for teacher, texts in question.rationales.items():
        print(f"   rationale of {teacher}: {_shown(texts[0])}")


def _show_refused(reading: Reading, limit: float) -> None:
    """Print the first refused rows, and whether a run would stop at them."""
    refused = reading.refused.total()
    if not refused:
        return
    print(f"\nrefused rows ({len(reading.bad)} of {refused:,}):")
    for row in reading.bad:
        print(f"  {_shown(f'{row.source}, row {row.row}: {row.reason}')}")
    if refused > limit * len(reading.answers):
        print(f"  data.max_rejected allows {limit:.0%} of the rows, so a run would stop here:")
        print("  mend the rows, or raise it")


def _shown(text: str) -> str:
    """Return a text on one line; of a long one, its start and its end."""
    line = for_terminal(text)
    if len(line) <= LONGEST_SHOWN:
        return line
    return f"{line[: LONGEST_SHOWN // 2]} … {line[-LONGEST_SHOWN // 2 :]}"


def _yaml(value: Any) -> str:
    yaml = YAML()
    yaml.width = WIDTH
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _show_choices(given: dict[str, str], settings: str, proposal: Proposal) -> None:
    """Print the question that decides between several mappings: a command for each of them."""
    source, row = proposal.place
    print(f"\nWhich is right? {for_terminal(source)}, row {row}, has the answer")
    for choice in proposal.choices:
        print(f"  {_shown(choice.answer)}")
        words = [f"{key}={_flow(value)}" for key, value in choice.fields.items()]
        words = [shlex.quote(word) if SPECIAL.search(word) else word for word in words]
        variables = given | {"SET": " ".join([*([settings] if settings else []), *words])}
        command = " ".join(f"{key}={_for_make(value)}" for key, value in variables.items() if value)
        print(f"    with  make own {for_terminal(command)}")
    if any(choice.fields.get("fixed_options") for choice in proposal.choices):
        print("  Write what the numbers stand for, in their order, in the place of the words.")


def _for_make(value: str) -> str:
    """Return a value quoted for the shell, in which make reads `$$` as `$`."""
    return shlex.quote(value.replace("$", "$$"))


def _flow(value: Any) -> str:
    """Return a value as YAML on one line without spaces."""
    if isinstance(value, list):
        return f"[{','.join(map(_flow, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = re.fullmatch(r"[\w.-]+", value) and YAML(typ="safe", pure=True).load(value) == value
    return value if is_plain else json.dumps(value, ensure_ascii=False)


def _agrees(name: str) -> bool:
    if not sys.stdin.isatty():
        print("\nnot written: run it in a terminal to be asked, or with YES=1")
        return False
    try:
        answer = input(f"\nWrite datasets.{name} into {PARAMETERS}? [y/N] ")
    except EOFError:  # Ctrl-D
        return False
    return answer.strip().lower() in ("y", "yes")


def _write(name: str, proposal: Proposal, parameters: Parameters) -> None:
    """Write the entry, and the teachers of its rationales; comments of the file stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = WIDTH
    values = yaml.load(read_text(PARAMETERS))
    values["datasets"][name] = proposal.entry
    for teacher in sorted(proposal.reading.teachers - set(parameters.models)):
        values["models"][teacher] = {"source": "provided"}
    stream = io.StringIO()
    yaml.dump(values, stream)
    check_settings(YAML(typ="safe").load(stream.getvalue()), Parameters, PARAMETERS)
    write_text(PARAMETERS, stream.getvalue())


def _show_next(name: str, proposal: Proposal, parameters: Parameters) -> None:
    """Print the commands that use the entry: with a few questions, and with all."""
    command = f".venv/bin/dvc exp run -S data.name={name}"
    print("\nA first run with 50 train questions, and one with all of them:")
    print(f"  {command} -S data.limit=50")
    print(f"  {command}")
    print(f"With a teacher of your own, if configs/own.yaml names it and has data.name={name}:")
    print("  make repro CONFIG=configs/own.yaml")
    if teachers := sorted(proposal.reading.teachers):
        print("With the rationales of the data instead of the teachers' own:")
        print(f"  {command} -S 'teachers=[{','.join(teachers)}]' -S saliency.weight=0")


def main() -> int:
    """Parse the command line, run, and return the exit code."""
    parser = command_line("python -m stages.distil.proposals.own", __doc__)
    parser.add_argument("data", help="a file, or a folder with files of train, validation and test")
    parser.add_argument("--entry", default="", help="its name; that of the file by default")
    parser.add_argument("--set", default="", help="fields that you know, as in answer=label2")
    parser.add_argument("--yes", action="store_true", help="write the entry without asking")
    given = parser.parse_args()
    return report_errors(
        "own", given.debug, lambda: own(given.data, given.entry, given.set, given.yes)
    )


if __name__ == "__main__":
    sys.exit(main())
