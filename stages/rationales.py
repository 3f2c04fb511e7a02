"""Stage `rationales`, one a teacher: write why each train answer is right, and answer the test."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from stages.distil import tables
from stages.distil.command import run_stage
from stages.distil.errors import UserError
from stages.distil.examples import Example
from stages.distil.models import model_folder
from stages.distil.parameters import Parameters
from stages.distil.prompts import (
    answer_messages,
    choose_examples,
    rationale_messages,
    solved_examples,
)
from stages.distil.quality import STATUSES, rationale_status


def rationales(parameters: Parameters, teacher: str) -> None:
    """Write the table of a teacher's rationales and of its zero-shot answers."""
    if teacher not in parameters.models:
        known = ", ".join(parameters.models)
        raise UserError(f"unknown teacher {teacher!r}; models in the catalogue: {known}")
    examples = tables.read_examples()
    provided = parameters.models[teacher].source == "provided"
    write = _provided if provided else _generated
    rows = list(write(parameters, teacher, examples))
    tables.write_table(tables.rationale_table(teacher), rows)
    counts = Counter(row["status"] for row in rows if row["status"])
    print(f"{teacher}: " + ", ".join(f"{counts[status]} {status}" for status in STATUSES))


def _provided(
    parameters: Parameters, teacher: str, examples: list[Example]
) -> Iterator[dict[str, Any]]:
    train = [e for e in examples if e.split == "train"]
    if not any(teacher in e.rationales for e in train):
        raise UserError(
            f"teacher {teacher!r}: data set {parameters.data.name!r} carries no rationales of that "
            "name; choose another teacher or data set"
        )
    for example in train:
        text = example.rationales.get(teacher, "").strip()
        status = rationale_status(text, "stop", example.options, example.answer)
        yield _row(example, rationale=text, status=status)


def _generated(
    parameters: Parameters, teacher: str, examples: list[Example]
) -> Iterator[dict[str, Any]]:
    from stages.distil.teachers import Teacher  # imports torch: not before the inputs are read

    settings = parameters.rationales
    train = [e for e in examples if e.split == "train"]
    test = [e for e in examples if e.split == "test"]
    solved = solved_examples(examples)
    if settings.examples != "none" and len(solved) <= settings.num_examples:
        raise UserError(
            f"rationales.examples: {settings.examples!r} needs more than "
            f"{settings.num_examples} questions with a rationale, data set "
            f"{parameters.data.name!r} has {len(solved)}; set rationales.examples to none"
        )
    prompts = [
        rationale_messages(
            example,
            choose_examples(
                example, solved, settings.examples, settings.num_examples, parameters.seed
            ),
            teacher,
        )
        for example in train
    ]
    engine = Teacher(model_folder(teacher))
    for example, done in zip(train, engine.complete(prompts, settings.max_tokens), strict=True):
        text = done.text.strip()
        status = rationale_status(text, done.finish_reason, example.options, example.answer)
        yield _row(example, rationale=text, status=status, completion=done)
    prompts = [answer_messages(example) for example in test]
    answers = engine.complete(prompts, parameters.evaluate.max_tokens)
    for example, done in zip(test, answers, strict=True):
        yield _row(example, answer=done.text.strip(), completion=done)


def _row(example: Example, completion: Any = None, **texts: str) -> dict[str, Any]:
    return {
        "id": example.id,
        "split": example.split,
        "rationale": None,
        "status": None,
        "answer": None,
        "finish_reason": completion.finish_reason if completion else "provided",
        "prompt_tokens": completion.prompt_tokens if completion else 0,
        "output_tokens": completion.output_tokens if completion else 0,
        **texts,
    }


if __name__ == "__main__":
    run_stage(rationales, __doc__, ("teacher", "name in the catalogue of models"))
