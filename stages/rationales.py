"""Stage `rationales`, one per teacher: explain the train answers and answer the test questions."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from stages.distil.interface.command import keep_rate, run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import GOLD
from stages.distil.interface.parameters import Parameters
from stages.distil.language.quality import STATUSES, read_published
from stages.distil.storage import tables
from stages.distil.teachers.backend import Completion
from stages.distil.teachers.selection import identity, open_backend, renderer
from stages.distil.teachers.texts import TeacherTexts, rationale_row
from stages.distil.teachers.writer import MOST_ASKED, CachedWriter, Generations
from stages.distil.weights.folders import count_parameters, model_folder


def rationales(parameters: Parameters, teacher: str) -> None:
    """Write the table of a teacher's rationales and zero-shot answers."""
    if teacher not in parameters.models:
        names = ", ".join(parameters.models)
        raise UserError(f"unknown teacher {teacher!r}; models in the catalogue: {names}")
    tables.check_exists(tables.EXAMPLES)
    statuses: Counter[str] = Counter()
    answers = empty = 0
    with ExitStack() as stack:
        if parameters.models[teacher].source == "provided":
            rows = _provided(parameters, teacher)
        else:
            store = stack.enter_context(Generations())
            rows = _generated(parameters, teacher, store)
        metadata = {"parameters": str(count_parameters(model_folder(teacher)))}
        scored = parameters.soft_labels.teacher == teacher
        schema = tables.with_scores(tables.SCHEMAS[tables.RATIONALES], scored)
        table = stack.enter_context(
            tables.TableWriter(tables.rationale_table(teacher), schema, metadata)
        )
        for row in rows:
            statuses[row["status"] or ""] += 1
            if row["split"] == "test":
                answers += 1
                empty += not row["answer"]
            table.write(row)
    counts = [f"{statuses[status]:,} {status}" for status in STATUSES if statuses[status]]
    print(f"{teacher}: {', '.join(counts)}")
    if empty:
        print(
            f"{teacher}: {empty:,} of {answers:,} test answers are empty and count as wrong; if it "
            f"thinks first, set models.{teacher}.max_completion_tokens, or chat_template_kwargs so "
            "that it does not"
        )


def _generated(
    parameters: Parameters, teacher: str, store: Generations
) -> Iterator[dict[str, Any]]:
    """Generate the texts that the store lacks; return the rows, which read all texts from it."""
    folder = model_folder(teacher)
    writer = CachedWriter(
        identity(teacher, parameters.models[teacher], parameters.rationales, folder),
        lambda: open_backend(teacher, parameters, folder),
        store,
        renderer(teacher, parameters.models[teacher], parameters.rationales, folder),
    )
    texts = TeacherTexts(parameters, teacher, writer)
    try:
        keep_rate(teacher, *texts.write())
    finally:
        if store.hits or store.written:
            print(f"{teacher}: {store.summary()}", file=sys.stderr)
    if writer.lacking:
        print(
            f"{teacher}: {writer.lacking:,} replies came without a whole text (a filter, a refusal "
            f"or an overload); each is asked for in {MOST_ASKED} runs at most: `dvc repro --force "
            f"--single-item rationales@{teacher}` asks again"
        )
    return texts.rows()


def _provided(parameters: Parameters, teacher: str) -> Iterator[dict[str, Any]]:
    any_rationale = False
    conclude = parameters.data_set.must_conclude(teacher)
    for example in tables.scan_examples("train"):
        answer = example.answer if parameters.assemble.labels == GOLD else None
        for sample, text in enumerate(example.rationales.get(teacher) or [""]):
            any_rationale = any_rationale or bool(text.strip())
            read, status = read_published(text, example.options, answer, conclude)
            completion = Completion(text.strip(), "provided", 0, 0)
            yield rationale_row(example, completion, sample, rationale=read, status=status)
    if not any_rationale:
        raise UserError(
            f"teacher {teacher!r}: data set {parameters.data.name!r} has no rationales under that "
            "name; choose another teacher or data set"
        )


if __name__ == "__main__":
    run_stage(rationales, __doc__, ("teacher", "name in the catalogue of models"))
