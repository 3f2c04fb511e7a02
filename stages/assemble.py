"""Stage `assemble`: bring a question and all its targets together, one row a question."""

import sys
from collections import Counter

from stages.distil.dataset.joining import count_statuses, distill_schema, join_targets
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
from stages.distil.storage.rationales import remove_stale

FEW = 0.1  # of a teacher's rationales
# What helps if most rationales have a status.
ADVICE = {
    OK: "add ok to assemble.statuses",
    EMPTY: "see models.*.max_completion_tokens if it thinks, or choose another teacher",
    TRUNCATED: "raise rationales.max_tokens",
    REPETITIVE: "set rationales.on_bad to retry, or choose another teacher",
    CONTRADICTS: "set rationales.teacher_forcing to true, or choose another teacher",
    INCONCLUSIVE: "add inconclusive to assemble.statuses if they need not name the answer",
    TOO_LONG: "raise rationales.context",
    "no row": "run `dvc repro` to write them",
}
PROVIDED = {  # by the data set
    EMPTY: "the data set has few under this name; choose another of `teachers`",
    TRUNCATED: "add truncated to assemble.statuses to learn their whole sentences",
    REPETITIVE: "choose another of `teachers`",
    CONTRADICTS: "check datasets.{data}.fields.answer, or choose another of `teachers`",
    INCONCLUSIVE: "set datasets.{data}.conclude to false if they need not name the answer",
}


def assemble(parameters: Parameters) -> None:
    """Write `distill`; report what the student cannot read or write before it is trained."""
    join(parameters)
    from stages.distil.encoding.limits import find_limits  # importing torch takes seconds

    for line in find_limits(parameters):
        print(f"assemble: warning: {line}", file=sys.stderr)


def join(parameters: Parameters) -> None:
    """Write `distill`; rationales that the quality gate refused are left out.

    Tables of teachers that params.yaml no longer names are removed first.
    """
    remove_stale(parameters.teachers)
    tally: Counter[str] = Counter()
    teachers, settings = parameters.teachers, parameters.assemble
    counts = {teacher: count_statuses(teacher) for teacher in teachers}
    accepted = any(each[status] for each in counts.values() for status in settings.statuses)
    if teachers and not accepted:
        raise UserError(
            f"no rationale of {', '.join(teachers)} passed the quality gate; see the status column "
            "in data/rationales, and assemble.statuses"
        )
    labellers = _labellers(parameters)
    saliency = parameters.saliency
    scorer = parameters.soft_labels.teacher
    schema = distill_schema(settings, bool(scorer))
    rows = {}
    for split in ("train", "validation", "test"):
        joined = join_targets(
            split,
            teachers,
            settings,
            saliency,
            tally,
            labellers,
            scorer,
            parameters.student.prompt,
        )
        rows[split] = tables.write_shards(tables.distill_table(split), joined, schema)
    if not rows["train"]:
        raise UserError(
            f"{', '.join(labellers)} answered no train question; see the answer column in "
            "data/rationales and assemble.labels"
        )
    print(", ".join(f"{count:,} {split}" for split, count in rows.items()))
    for teacher in teachers:
        own = counts[teacher] | Counter({"no row": tally[f"{teacher}: no row"]})
        against = tally[f"{teacher}: against the label"]
        own.update({OK: -against, CONTRADICTS: against})
        count = sum(own[status] for status in settings.statuses)
        lost = [
            f"{number:,} {status}"
            for status in (*STATUSES, "no row")
            if status not in settings.statuses and (number := own[status])
        ]
        selects = settings.choose in ("best", "threshold")
        chosen = f"{tally[f'{teacher}: chosen']:,} of " if selects else ""
        print(f"{teacher}: {chosen}{count:,} rationales; without: {', '.join(lost) or 'none'}")
        if line := _few_kept(teacher, own, parameters):
            print(f"assemble: warning: {line}", file=sys.stderr)
    if labellers:
        print(
            f"labels of {', '.join(labellers)}: {tally['labels: not gold']:,} are not gold, "
            f"{tally['labels: none']:,} questions left out without one"
        )
    if scorer:
        _report_soft_labels(scorer, tally)
    print(f"saliency: {rows['train'] - tally['saliency: no row']:,} train questions")


def _few_kept(teacher: str, own: Counter[str], parameters: Parameters) -> str | None:
    """Return a warning if fewer than FEW of a teacher's rationales are learnt, or None.

    `own` counts its rationales by status, and its questions without a row.
    """
    statuses = parameters.assemble.statuses
    total, kept = own.total(), sum(own[status] for status in statuses)
    if kept >= FEW * total:
        return None
    reason, number = max(
        ((status, own[status]) for status in own if status not in statuses),
        key=lambda pair: pair[1],
    )
    provided = parameters.models[teacher].source == "provided"
    advice = (PROVIDED if provided else {}).get(reason) or ADVICE[reason]
    return (
        f"{teacher}: only {kept:,} of {total:,} rationales ({kept / total:.1%}) are learnt; "
        f"{number:,} are {reason}: {advice.format(data=parameters.data.name)}"
    )


def _report_soft_labels(teacher: str, tally: Counter[str]) -> None:
    """Print how many questions have soft labels; raise `UserError` if none has."""
    scored, free_form = tally["soft labels"], tally["soft labels: free-form"]
    if not scored:
        raise UserError(
            f"soft_labels.teacher: {teacher} scored the options of no train question "
            f"({free_form:,} are free-form); set it to null, or choose questions with options"
        )
    print(
        f"soft labels of {teacher}: {scored:,} questions; without: {free_form:,} free-form, "
        f"{tally['soft labels: too long']:,} too long"
    )


def _labellers(parameters: Parameters) -> list[str]:
    """Return the teachers whose answers are the labels; none where gold ones are."""
    labels = parameters.assemble.labels
    if labels == VOTE:
        return [t for t in parameters.teachers if parameters.models[t].source != "provided"]
    return [] if labels == GOLD else [labels]


if __name__ == "__main__":
    run_stage(assemble, __doc__)
