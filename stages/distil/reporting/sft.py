"""Write the assembled data as JSON lines for supervised fine-tuning elsewhere: `make export`.

TRL, axolotl and LLaMA-Factory read them. The lines suit any student: `student.form` and
`student.prompt.prefixes` change nothing in them. Those trainers read the texts alone; the other
columns are there to choose lines by, or to weigh them.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stages.distil.interface.command import command_line
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.method import ANSWER, REASONING, SALIENCY
from stages.distil.interface.parameters import Parameters, load_parameters
from stages.distil.interface.paths import PARAMETERS
from stages.distil.language.quality import OK
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    QUESTION,
    REASONING_TASK,
    SALIENCY_TASK,
    question_text,
    rationale_task,
    reasoning_text,
)
from stages.distil.storage import tables

EXPORT = Path("data/export")
Row = dict[str, Any]  # of `distill`


class Target(NamedTuple):
    """What a line teaches: an answer, a rationale or the salient words, as a text.

    `asks` is the text after the question that asks for it. Answers have no teacher, and nothing but
    a rationale has a status.
    """

    kind: str
    teacher: str
    status: str
    weight: float
    asks: str
    text: str


def answer_alone(row: Row, parameters: Parameters) -> Iterator[Target]:
    """Yield the answer of a question."""
    yield Target(ANSWER, "", "", 1.0, ANSWER_TASK, row["answer"])


def every_target(row: Row, parameters: Parameters) -> Iterator[Target]:
    """Yield a question's answer, rationales and salient words, each asked for by a text of its own.

    The rationales of one teacher share its weight, as in the student's training.
    """
    yield from answer_alone(row, parameters)
    for number, teacher in enumerate(parameters.teachers, start=1):
        written = [r for r in row["rationales"] if r["teacher"] == teacher]
        for one in written:
            weight = parameters.teacher_weight(teacher) / len(written)
            asks = rationale_task(number)
            yield Target(REASONING, teacher, one["status"], weight, asks, one["text"])
    if row["saliency"]:
        words, saliency = ", ".join(row["saliency"]), parameters.saliency
        yield Target(SALIENCY, saliency.teacher, "", saliency.weight, SALIENCY_TASK, words)


def reasoned_answers(row: Row, parameters: Parameters) -> Iterator[Target]:
    """Yield each rationale of a question with the answer after it.

    Those that are not ok are left out: they may lead to another answer, or to none.
    """
    led = [rationale for rationale in row["rationales"] if rationale["status"] == OK]
    shares = Counter(rationale["teacher"] for rationale in led)
    for one in led:
        teacher = one["teacher"]
        weight = parameters.teacher_weight(teacher) / shares[teacher]
        text = f"{reasoning_text(one['text'])} {row['answer']}"
        yield Target(REASONING, teacher, OK, weight, REASONING_TASK, text)


def as_messages(question: str, target: Target) -> dict[str, Any]:
    """Return a conversation; the bare question asks for what a student would reply."""
    asks = "" if target.asks in (ANSWER_TASK, REASONING_TASK) else target.asks
    return {
        "messages": [
            {"role": "user", "content": question + asks},
            {"role": "assistant", "content": target.text},
        ]
    }


def as_texts(question: str, target: Target) -> dict[str, Any]:
    """Return the text that a decoder-only student reads, and the one that it writes after it."""
    return {"prompt": f"{QUESTION}{question}{target.asks}", "completion": f" {target.text}"}


FORMS = {"messages": as_messages, "prompt-completion": as_texts}
LINES = {"target": every_target, "rationale": reasoned_answers}  # of a train question


def export(form: str, per: str, parameters: Parameters) -> None:
    """Write a file of lines for each split, and say what is in it.

    Only train questions have more targets than the answer. What has no weight in the loss is left
    out, since trainers that know no weights would learn it in full.
    """
    write, of_train = _chosen("FORM", form, FORMS), _chosen("PER", per, LINES)
    splits = {"train": of_train, "validation": answer_alone, "test": answer_alone}
    for split in splits:
        tables.check_exists(tables.distill_table(split))
    counts: dict[str, Counter[str]] = {}
    with tables.whole_folder(EXPORT) as folder:
        for split, targets in splits.items():
            counts[split] = Counter()
            with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for row, target in _taught(split, targets, parameters):
                    question = question_text(
                        row["question"], row["options"], parameters.student.prompt
                    )
                    line = {
                        "id": row["id"],
                        "target": target.kind,
                        "teacher": target.teacher,
                        "status": target.status,
                        "weight": target.weight,
                    }
                    line |= write(question, target)
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    counts[split][f"{target.kind} {target.teacher}".strip()] += 1
        if not counts["train"]:
            raise UserError(
                f"{tables.distill_table('train')}: no rationale is {OK} and has a weight (alpha) "
                "above 0, so there is no line per rationale; use PER=target"
            )
    for split, lines in counts.items():
        kinds = ", ".join(f"{kind} {number:,}" for kind, number in lines.items())
        print(f"{EXPORT / split}.jsonl: {lines.total():,} lines ({kinds})")


def _chosen(name: str, value: str, choices: Mapping[str, Any]) -> Any:
    if value not in choices:
        raise UserError(f"{name} is {value!r}; it must be {' or '.join(choices)}")
    return choices[value]


def _taught(
    split: str, targets: Callable[[Row, Parameters], Iterable[Target]], parameters: Parameters
) -> Iterator[tuple[Row, Target]]:
    """Yield the targets of a split that have a weight, with their questions.

    Raises `UserError` if the data set has rationales of other teachers than the parameters.
    """
    folder = tables.distill_table(split)
    for row in tables.scan_table(folder):
        for rationale in row["rationales"]:
            if rationale["teacher"] not in parameters.teachers:
                raise UserError(
                    f"{folder}: has rationales of {rationale['teacher']!r}, who is not one of "
                    "`teachers` in params.yaml; run `dvc repro assemble`"
                )
        yield from ((row, target) for target in targets(row, parameters) if target.weight)


def main() -> None:
    """Run from the command line."""
    parser = command_line("python -m stages.distil.reporting.sft", __doc__)
    parser.add_argument("--form", default="messages", help=" or ".join(FORMS))
    parser.add_argument("--per", default="target", help=f"a line per {' or '.join(LINES)}")
    parser.add_argument("--params", default=PARAMETERS, help="parameter file (%(default)s)")
    given = parser.parse_args()
    sys.exit(
        report_errors(
            "export",
            given.debug,
            lambda: export(given.form, given.per, load_parameters(given.params)),
        )
    )


if __name__ == "__main__":
    main()
