"""Stage `assemble`: bring a question and all its targets together, one row per question."""

import sys
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from stages.distil.dataset.joining import (
    Counts,
    Join,
    Targets,
    TeacherCounts,
    without_targets,
)
from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import GOLD, STATUSES, VOTE
from stages.distil.interface.parameters import Parameters
from stages.distil.language.quality import (
    CONTRADICTS,
    EMPTY,
    INCONCLUSIVE,
    OK,
    REPETITIVE,
    TOO_LONG,
    TRUNCATED,
)
from stages.distil.storage import tables
from stages.distil.storage.tables import distill_table

FEW = 0.1  # of a teacher's rationales
NO_ROW = "no row"  # counted like a status
# What helps if most rationales have a status.
ADVICE = {
    OK: "add ok to assemble.statuses",
    EMPTY: "see models.*.max_completion_tokens if it thinks, or choose another teacher",
    TRUNCATED: "raise rationales.max_tokens",
    REPETITIVE: "set rationales.on_bad to retry, or choose another teacher",
    CONTRADICTS: "set rationales.teacher_forcing to true, or choose another teacher",
    INCONCLUSIVE: "if they need not name the answer, add inconclusive to assemble.statuses and set "
    "student.form to branch",
    TOO_LONG: "raise rationales.context",
    NO_ROW: "run `dvc repro` to write them",
}
PROVIDED = {  # by the data set
    EMPTY: "the data set has few under this name; choose another of `teachers`",
    TRUNCATED: "to learn their whole sentences, add truncated to assemble.statuses and set "
    "student.form to branch",
    REPETITIVE: "choose another of `teachers`",
    CONTRADICTS: "check datasets.{data}.fields.answer, or choose another of `teachers`",
    INCONCLUSIVE: "set datasets.{data}.conclude to false if they need not name the answer",
}


def assemble(parameters: Parameters) -> None:
    """Write `distill`; rationales that the quality gate refused are left out.

    Raises `UserError` if no rationale, label or soft label is left of those that should be taught.
    """
    targets = Targets(
        parameters.teachers,
        parameters.assemble,
        parameters.saliency,
        _labellers(parameters),
        parameters.soft_labels.teacher,
        parameters.seed,
    )
    join = Join(targets)
    rows = {"train": tables.write_shards(distill_table("train"), _checked(join), targets.schema)}
    for split in ("validation", "test"):
        questions = without_targets(split, targets.schema)
        rows[split] = tables.write_shards(distill_table(split), questions, targets.schema)
    print(", ".join(f"{count:,} {split}" for split, count in rows.items()))
    _report(parameters, targets, join.counts)


def _checked(join: Join) -> Iterator[pa.Table]:
    """Yield the train questions; raise `UserError` if they lack what is to be taught.

    It does so at the end, before the table appears under its name.
    """
    yield from join
    targets, counts = join.targets, join.counts
    statuses = sum((each.statuses for each in counts.teachers.values()), Counter[str]())
    if counts.teachers and not any(statuses[status] for status in targets.assemble.statuses):
        raise UserError(
            f"no rationale of {', '.join(counts.teachers)} passed the quality gate; see the status "
            "column in data/rationales, and assemble.statuses"
        )
    if not counts.questions:
        raise UserError(
            f"{', '.join(targets.labellers)} answered no train question; see the answer column in "
            "data/rationales and assemble.labels"
        )
    if targets.soft_labels and not counts.scored:
        raise UserError(
            f"soft_labels.teacher: {targets.soft_labels} scored the options of no train question "
            f"({counts.free_form:,} are free-form); set it to null, or choose questions with "
            "options"
        )


def _report(parameters: Parameters, targets: Targets, counts: Counts) -> None:
    """Print how many targets of each kind there are, and why others are missing."""
    for teacher, own in counts.teachers.items():
        print(_rationales_of(teacher, own, targets))
        if line := _few_kept(teacher, own, parameters):
            print(f"assemble: warning: {line}", file=sys.stderr)
    if targets.labellers:
        print(
            f"labels of {', '.join(targets.labellers)}: {counts.not_gold:,} are not gold, "
            f"{counts.unlabelled:,} questions left out without one"
        )
    if targets.soft_labels:
        print(
            f"soft labels of {targets.soft_labels}: {counts.scored:,} questions; without: "
            f"{counts.free_form:,} free-form, {counts.too_long:,} too long"
        )
    print(f"saliency: {counts.questions - counts.without_words:,} train questions")


def _rationales_of(teacher: str, counts: TeacherCounts, targets: Targets) -> str:
    """Return a line that says how many of a teacher's rationales are accepted, and chosen."""
    accepted = targets.assemble.statuses
    numbers = counts.statuses | Counter({NO_ROW: counts.no_row})
    lost = [
        f"{numbers[status]:,} {status}"
        for status in (*STATUSES, NO_ROW)
        if status not in accepted and numbers[status]
    ]
    total = sum(numbers[status] for status in accepted)
    chosen = f"{counts.taught:,} of " if counts.taught < total else ""
    return f"{teacher}: {chosen}{total:,} rationales; without: {', '.join(lost) or 'none'}"


def _few_kept(teacher: str, counts: TeacherCounts, parameters: Parameters) -> str | None:
    """Return a warning if fewer than FEW of a teacher's rationales are learnt, or None."""
    accepted = parameters.assemble.statuses
    numbers = counts.statuses | Counter({NO_ROW: counts.no_row})
    total, kept = numbers.total(), sum(numbers[status] for status in accepted)
    if kept >= FEW * total:
        return None
    lost = Counter({status: n for status, n in numbers.items() if status not in accepted})
    ((reason, number),) = lost.most_common(1)
    provided = parameters.models[teacher].source == "provided"
    advice = (PROVIDED if provided else {}).get(reason) or ADVICE[reason]
    return (
        f"{teacher}: only {kept:,} of {total:,} rationales ({kept / total:.1%}) are learnt; "
        f"{number:,} are {reason}: {advice.format(data=parameters.data.name)}"
    )


def _labellers(parameters: Parameters) -> list[str]:
    """Return the teachers whose answers are the labels; none where gold ones are."""
    labels = parameters.assemble.labels
    if labels == VOTE:
        return [t for t in parameters.teachers if parameters.models[t].source != "provided"]
    return [] if labels == GOLD else [labels]


if __name__ == "__main__":
    run_stage(assemble, __doc__)
