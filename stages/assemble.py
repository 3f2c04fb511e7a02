"""Stage `assemble`: bring a question and all its targets together, one row a question."""

from collections import Counter
from typing import Any

from stages.distil import tables
from stages.distil.command import run_stage
from stages.distil.errors import UserError
from stages.distil.parameters import Parameters
from stages.distil.prompts import student_context
from stages.distil.words import top_words


def assemble(parameters: Parameters) -> None:
    """Write `distill`; rationales that the quality gate refused are left out.

    Tables of teachers that params.yaml no longer names are removed first: DVC leaves them behind,
    and what is in their folder would otherwise count as an input.
    """
    for stale in sorted(tables.RATIONALES.glob("*.parquet")):
        if stale.stem not in parameters.teachers:
            stale.unlink()
    rationales: dict[str, list[dict[str, str]]] = {}
    for teacher in parameters.teachers:
        for row in tables.read_table(tables.rationale_table(teacher)):
            if row["status"] in parameters.assemble.statuses:
                target = {"teacher": teacher, "text": row["rationale"]}
                rationales.setdefault(row["id"], []).append(target)
    salient = {
        row["id"]: top_words(row["text"], row["words"], parameters.saliency.top_k)
        for row in tables.read_table(tables.SALIENCY)
    }
    for split in ("train", "validation", "test"):
        rows: list[dict[str, Any]] = [
            {
                "id": e.id,
                "context": student_context(e.question, e.options),
                "options": e.options,
                "answer": e.answer,
                "rationales": rationales.get(e.id, []) if split == "train" else [],
                "saliency": salient.get(e.id, []) if split == "train" else [],
            }
            for e in tables.read_examples(split)
        ]
        tables.write_table(tables.distill_table(split), rows)
        if split == "train":
            _report(rows, parameters.teachers)


def _report(rows: list[dict[str, Any]], teachers: list[str]) -> None:
    counts = Counter(r["teacher"] for row in rows for r in row["rationales"])
    if not counts:
        raise UserError(
            f"no rationale of {', '.join(teachers)} passed the quality gate; see the "
            "status column in data/rationales, and assemble.statuses"
        )
    print(
        f"{len(rows)} train questions; rationales of "
        + ", ".join(f"{teacher} for {counts[teacher]}" for teacher in teachers)
        + f"; salient words for {sum(bool(row['saliency']) for row in rows)}"
    )


if __name__ == "__main__":
    run_stage(assemble, __doc__)
