"""Stage `evaluate`: answer the test questions and count, for the student and for each teacher."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from stages.distil import tables
from stages.distil.answers import parse_answer, same
from stages.distil.command import run_stage
from stages.distil.highlights import overlap, read_scored
from stages.distil.parameters import Parameters
from stages.distil.quality import STATUSES
from stages.distil.scoring import is_correct, score

ACCURACY = Path("results/accuracy.csv")


def evaluate(parameters: Parameters) -> None:
    """Write metrics, predictions and the accuracy plot's data: no times, no paths."""
    questions = tables.read_examples("test")
    rows = tables.read_table(tables.distill_table("test"))
    teachers = {
        name: tables.read_table(tables.rationale_table(name)) for name in parameters.teachers
    }
    scored = read_scored()
    from stages.distil.hardware import precision
    from stages.distil.loading import load_model
    from stages.distil.models import STUDENT
    from stages.distil.student import Encoder, generate_answers

    model, tokenizer = load_model(STUDENT, "float32")
    tokens = parameters.evaluate.max_tokens
    student = parameters.student
    encoder = Encoder(model, tokenizer, student.shared_context, student.context)
    prompts = [encoder.prompt(row, tokens) for row in rows]
    if encoder.cut:
        print(f"{len(encoder.cut)} questions lost their beginning", file=sys.stderr)
    dtype = precision(student.dtype)
    texts = generate_answers(model, tokenizer, prompts, tokens, dtype)
    correct = [is_correct(text, row) for text, row in zip(texts, rows, strict=True)]
    metrics: dict[str, Any] = {"student": score(correct), "teachers": {}}
    by_id = {row["id"]: row for row in rows}
    for name, table in teachers.items():
        counts = Counter(row["status"] for row in table if row["status"])
        metrics["teachers"][name] = {"rationales": {s: counts[s] for s in STATUSES}}
        answered = [row for row in table if row["split"] == "test"]
        if answered:
            right = [is_correct(row["answer"], by_id[row["id"]]) for row in answered]
            metrics["teachers"][name] |= score(right)
        reasoned = [row for row in table if row["split"] == "train" and row["answer"] is not None]
        if reasoned:  # without teacher forcing
            gold = {e.id: e.answer for e in tables.scan_examples("train")}
            right = [same(row["answer"], gold[row["id"]]) for row in reasoned]
            metrics["teachers"][name]["train"] = score(right)
    metrics["saliency"] = overlap(scored, parameters.saliency)
    tables.write_table(
        tables.PREDICTIONS,
        (
            {
                "id": example.id,
                "question": example.question,
                "options": example.options,
                "answer": example.answer,
                "prediction": parse_answer(text, example.options),
                "correct": right,
            }
            for example, text, right in zip(questions, texts, correct, strict=True)
        ),
    )
    tables.write_text(tables.METRICS, json.dumps(metrics, indent=2) + "\n")
    bars = [("student", metrics["student"])]
    bars += [(name, entry) for name, entry in metrics["teachers"].items() if "accuracy" in entry]
    lines = [f"{name},{entry['accuracy']},{entry['low']},{entry['high']}\n" for name, entry in bars]
    tables.write_text(ACCURACY, "model,accuracy,low,high\n" + "".join(lines))
    total = metrics["student"]
    print(
        f"student: {total['accuracy']:.3f} ({total['low']:.3f} to {total['high']:.3f}) on "
        f"{total['questions']} questions"
    )


if __name__ == "__main__":
    run_stage(evaluate, __doc__)
