"""Stage `evaluate`: measure the student and the teachers on the test questions."""

import json
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from stages.distil.evaluation.salient_words import kept_mass, overlap, read_scored
from stages.distil.evaluation.statistics import by_class, score
from stages.distil.interface.command import keep_rate, run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import is_correct, parse_answer
from stages.distil.language.quality import STATUSES
from stages.distil.storage import tables

ACCURACY = Path("results/accuracy.csv")
CLASSES = Path("results/classes.csv")
MASS = Path("results/saliency.csv")


def evaluate(parameters: Parameters) -> None:
    """Write metrics, predictions and the data of plots, without times or paths."""
    questions = tables.read_examples("test")
    rows = tables.read_table(tables.distill_table("test"))
    train_rows = tables.scan_table(tables.distill_table("train"), tables.SCHEMAS[tables.DISTILL])
    taught = list(islice(train_rows, parameters.evaluate.explained))
    teachers = {
        name: tables.read_table(tables.rationale_table(name)) for name in parameters.teachers
    }
    scored = read_scored()
    from stages.distil.evaluation.probes import explanation_scores, option_scores
    from stages.distil.models.hardware import precision
    from stages.distil.models.loading import load_model
    from stages.distil.student.answering import generate_answers
    from stages.distil.student.samples import Encoder
    from stages.distil.weights.folders import STUDENT, count_parameters

    model, tokenizer = load_model(STUDENT, "float32")
    max_tokens = parameters.evaluate.max_tokens
    student = parameters.student
    encoder = Encoder(model.config, tokenizer, student)
    prompts = [encoder.prompt(row, max_tokens) for row in rows]
    if encoder.cut:
        print(f"{len(encoder.cut)} questions were cut at the beginning", file=sys.stderr)
    dtype = precision(student.dtype)
    start = time.monotonic()
    texts = generate_answers(model, tokenizer, prompts, max_tokens, dtype)
    keep_rate("student", len(texts), time.monotonic() - start)
    scores = option_scores(model, tokenizer, [encoder.options(row) for row in rows], dtype)
    predictions = [
        {
            "id": example.id,
            "question": example.question,
            "options": example.options,
            "answer": example.answer,
            "prediction": parse_answer(text, example.options),
            "correct": is_correct(text, row),
            "scores": row_scores,
        }
        for example, row, text, row_scores in zip(questions, rows, texts, scores, strict=True)
    ]
    classes = by_class(
        [row["correct"] for row in predictions], [row["answer"] for row in predictions]
    )
    size = count_parameters(STUDENT)
    metrics: dict[str, Any] = {
        "student": _student_metrics(predictions)
        | {"parameters": size}
        | explanation_scores(model, tokenizer, encoder, taught, parameters.teachers, dtype)
        | {"classes": {name: entry["accuracy"] for name, entry in classes.items()}},
        "teachers": {name: _teacher_metrics(name, rows, size) for name, rows in teachers.items()},
        "saliency": overlap(scored, parameters.saliency),
    }
    tables.write_table(tables.PREDICTIONS, predictions)
    tables.write_text(tables.METRICS, json.dumps(metrics, indent=2) + "\n")
    bars = [("student", metrics["student"])]
    bars += [(name, entry) for name, entry in metrics["teachers"].items() if "accuracy" in entry]
    _write_bars(ACCURACY, "model", bars)
    _write_bars(CLASSES, "answer", list(classes.items()))
    mass = ({"k": k, "share": share} for k, share in enumerate(kept_mass(scored.words)))
    tables.write_text(MASS, tables.csv_text(["k", "share"], mass))
    total = metrics["student"]
    print(
        f"student: {total['accuracy']:.3f} ({total['low']:.3f} to {total['high']:.3f}) on "
        f"{total['questions']} questions"
    )


def _student_metrics(predictions: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the accuracy of the student's texts and of its most probable options."""
    metrics: dict[str, Any] = score([row["correct"] for row in predictions])
    preferred = [
        row["options"][row["scores"].index(max(row["scores"]))] == row["answer"]
        for row in predictions
        if row["options"]
    ]
    return metrics | ({"by_option": score(preferred)} if preferred else {})


def _teacher_metrics(name: str, rows: list[dict[str, Any]], student_size: int) -> dict[str, Any]:
    """Return the statuses of a teacher's rationales, its accuracy and, if known, its size."""
    counts = Counter(row["status"] for row in rows if row["status"])
    metrics: dict[str, Any] = {"rationales": {status: counts[status] for status in STATUSES}}
    if size := int(tables.read_metadata(tables.rationale_table(name)).get("parameters", 0)):
        metrics |= {"parameters": size, "student_share": round(student_size / size, 6)}
    by_id = {example.id: example for example in tables.scan_examples("train", "test")}
    answered = [row for row in rows if row["split"] == "test"]
    if answered:
        examples = [by_id[row["id"]] for row in answered]
        metrics |= score(
            [is_correct(r["answer"], vars(e)) for r, e in zip(answered, examples, strict=True)]
        )
    reasoned = [row for row in rows if row["split"] == "train" and row["answer"] is not None]
    if reasoned:  # without teacher forcing
        metrics["train"] = score(
            [is_correct(row["answer"], vars(by_id[row["id"]])) for row in reasoned]
        )
    return metrics


def _write_bars(path: Path, name: str, bars: list[tuple[str, dict[str, Any]]]) -> None:
    """Write the accuracies of a bar plot with their intervals."""
    columns = (name, "accuracy", "low", "high", "questions")
    tables.write_text(path, tables.csv_text(columns, ({name: label} | e for label, e in bars)))


if __name__ == "__main__":
    run_stage(evaluate, __doc__)
