"""Stage `evaluate`: measure the student and the teachers on the test questions."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.distil.evaluation.salient_words import kept_mass, overlap, scan_scored
from stages.distil.evaluation.statistics import by_class, score
from stages.distil.interface.command import keep_rate, run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import is_correct, most_frequent, parse_answer
from stages.distil.language.appearance import as_text
from stages.distil.language.quality import STATUSES
from stages.distil.storage import tables
from stages.distil.storage.csv_files import csv_text
from stages.distil.storage.following import with_questions

if TYPE_CHECKING:  # importing torch takes seconds
    from stages.distil.encoding.files import Asked
    from stages.distil.encoding.samples import Window
    from stages.distil.student.answering import Reasoned, StudentModel

ACCURACY = Path("results/accuracy.csv")
CLASSES = Path("results/classes.csv")
MASS = Path("results/saliency.csv")


def evaluate(parameters: Parameters) -> None:
    """Write metrics, predictions and the data of plots, without times or paths."""
    teachers = parameters.teachers
    needed = [tables.distill_table("train"), tables.ENCODED, tables.SALIENCY]
    for path in (*needed, *map(tables.rationale_table, teachers)):
        tables.check_exists(path)
    from stages.distil.encoding.files import read_taught, read_window
    from stages.distil.evaluation.probes import Explained, explanation_scores, reasoning_scores
    from stages.distil.evaluation.reasoning import CHECKPOINTS
    from stages.distil.models.hardware import precision
    from stages.distil.models.loading import load_model
    from stages.distil.models.resuming import remove_checkpoints
    from stages.distil.student.answering import StudentModel
    from stages.distil.weights.folders import STUDENT, count_parameters

    model, tokenizer = load_model(STUDENT, "float32")
    student = StudentModel(model, tokenizer, precision(parameters.student.dtype))
    window = read_window()
    seconds = _answer(student, window, parameters)
    reasons = parameters.student.reasons
    rows = tables.scan_table(tables.distill_table("train"))
    taught = zip(read_taught(window), rows, strict=True)
    explained = [
        Explained(samples, row["saliency"], _taught_rationales(row, parameters))
        for samples, row in islice(taught, parameters.evaluate.explained)
    ]
    if reasons:
        longest = parameters.evaluate.reasoning_tokens
        taught_by = [name for name in teachers if parameters.teacher_weight(name)]
        explanations = reasoning_scores(student, explained, taught_by, window, longest)
    else:
        explanations = explanation_scores(student, explained, teachers, window)
    total = _student_metrics(parameters)
    keep_rate("student", total["questions"], seconds)
    classes = by_class(_predicted("correct"), _predicted("answer"))
    size = count_parameters(STUDENT)
    metrics: dict[str, Any] = {
        "student": total
        | {"parameters": size}
        | explanations
        | {"classes": {name: entry["accuracy"] for name, entry in classes.items()}},
        "teachers": {name: _teacher_metrics(name, size) for name in teachers},
        "saliency": overlap(scan_scored(), parameters.saliency),
    }
    tables.write_text(tables.METRICS, json.dumps(metrics, indent=2) + "\n")
    bars = [("student", metrics["student"])]
    bars += [(name, entry) for name, entry in metrics["teachers"].items() if "accuracy" in entry]
    _write_bars(ACCURACY, "model", bars)
    _write_bars(CLASSES, "answer", list(classes.items()))
    mass = ({"k": k, "share": share} for k, share in enumerate(kept_mass(scan_scored())))
    tables.write_text(MASS, csv_text(["k", "share"], mass))
    remove_checkpoints(CHECKPOINTS)
    print(
        f"student: {total['accuracy']:.3f} ({total['low']:.3f} to {total['high']:.3f}) on "
        f"{total['questions']} questions"
    )


def _taught_rationales(row: dict[str, Any], parameters: Parameters) -> list[tuple[str, str]]:
    """Return teacher and text of a train question's rationales, in the order of their branches."""
    return [
        (rationale["teacher"], rationale["text"])
        for rationale in row["rationales"]
        if rationale["teacher"] in parameters.teachers
        and parameters.student.teaches(rationale["status"])
    ]


def _answer(student: "StudentModel", window: "Window", parameters: Parameters) -> float | None:
    """Write the student's answers to the test questions; return the seconds of the main way.

    It answers in each way that it has learnt. If some of its texts are those of a run that was
    killed, the seconds are None.
    """
    from stages.distil.encoding.files import read_asked
    from stages.distil.evaluation.probes import answer_questions
    from stages.distil.evaluation.reasoning import Draw, StoredReasoning, score_after_reasoning
    from stages.distil.models.batching import in_parts
    from stages.distil.student.answering import PART
    from stages.distil.weights.folders import STUDENT, digest

    settings, shared = parameters.evaluate, parameters.student.shared_context
    reasons, directly = parameters.student.reasons, parameters.student.direct
    longest = settings.reasoning_tokens
    seconds = 0.0
    questions = zip(tables.scan_examples("test"), read_asked("test"), strict=True)
    with ExitStack() as stack:
        table = stack.enter_context(tables.TableWriter(tables.PREDICTIONS, _columns(parameters)))
        if reasons:
            stored = StoredReasoning(student, digest(STUDENT), window, longest)
            reasoning = stack.enter_context(stored)
        for part in in_parts(questions, PART):
            asked = [each for _, each in part]
            start = time.monotonic()
            reasoned = reasoning.answer(asked) if reasons else []
            reasoned_at = time.monotonic()
            direct = (
                answer_questions(student, asked, window, settings.max_tokens, shared)
                if directly
                else []
            )
            seconds += (reasoned_at if reasons else time.monotonic()) - start
            if reasons:
                after = score_after_reasoning(student, asked, reasoned, window, longest)
                draws = [
                    reasoning.answer(asked, Draw(settings.temperature, parameters.seed, number))
                    for number in range(settings.samples)
                ]
            for n, (example, question) in enumerate(part):
                given = _direct_columns(*direct[n], question) if directly else {}
                if reasons:
                    given = _reasoned_columns(reasoned[n], after[n], question) | {
                        f"direct_{name}": value for name, value in given.items()
                    }
                    if draws:
                        answers = [as_text(draw[n].answer or "") for draw in draws]
                        given |= _voted(answers, question)
                row = {"id": example.id, "question": example.question, "options": example.options}
                table.write(row | {"answer": example.answer} | given)
    return None if reasons and reasoning.resumed else seconds


def _columns(parameters: Parameters) -> pa.Schema:
    """Return the schema of the predictions, which has each way in which the student answers."""
    columns = list(tables.SCHEMAS[tables.PREDICTIONS])
    if parameters.student.reasons:
        columns += tables.REASONED
        columns += tables.DIRECT if parameters.student.direct else []
        columns += tables.VOTED if parameters.evaluate.samples else []
    return pa.schema(columns)


def _direct_columns(written: str, scores: list[float], question: "Asked") -> dict[str, Any]:
    text = as_text(written)
    return {
        "prediction": parse_answer(text, question.options),
        "correct": is_correct(text, question._asdict()),
        "scores": scores,
    }


def _reasoned_columns(
    reasoned: "Reasoned", scores: list[float], question: "Asked"
) -> dict[str, Any]:
    return {
        "prediction": parse_answer(as_text(reasoned.answer or ""), question.options),
        "correct": reasoned.is_correct(question),
        "scores": scores,
        "reasoning": as_text(reasoned.reasoning),
        "reasoning_tokens": len(reasoned.written),
    }


def _voted(answers: Sequence[str], question: "Asked") -> dict[str, Any]:
    """Return what most of a student's drawn texts answer (self-consistency, Wang et al., 2023).

    Texts without an answer, or with none of the options, do not vote.
    """
    options = question.options
    read = [parse_answer(text, options) for text in answers]
    votes = [vote for vote in read if vote and (not options or vote in options)]
    voted = most_frequent(votes, options) or ""
    correct = bool(voted) and is_correct(voted, question._asdict())
    return {"voted_prediction": voted, "voted_correct": correct}


def _predicted(column: str) -> Iterator[Any]:
    return tables.scan_column(tables.PREDICTIONS, column)


def _student_metrics(parameters: Parameters) -> dict[str, Any]:
    """Return the accuracy of the student's texts and of its most probable options.

    Those of a student that reasons first are the answers after its reasoning. `reasoned` says more
    about them, `direct` describes its answers without reasoning, if it has learnt these, and
    `voted` the majority votes of its drawn texts, if there are any.
    """
    metrics = _way_metrics()
    samples = parameters.evaluate.samples
    if parameters.student.reasons:
        tokens = list(_predicted("reasoning_tokens"))
        unanswered = sum(not prediction for prediction in _predicted("prediction"))
        written = {"tokens": round(mean(tokens), 1), "unanswered": unanswered}
        reasoned = metrics | written
        direct = {"direct": _way_metrics("direct_")} if parameters.student.direct else {}
        metrics |= direct | {"reasoned": reasoned}
        if samples:
            metrics["voted"] = score(_predicted("voted_correct")) | {"samples": samples}
    return metrics


def _way_metrics(way: str = "") -> dict[str, Any]:
    """Return the accuracy of one way of answering: `way` begins the names of its columns."""
    columns = map(_predicted, ("options", f"{way}scores", "answer"))
    preferred = Counter(
        options[scores.index(max(scores))] == answer
        for options, scores, answer in zip(*columns, strict=True)
        if options
    )
    by_option = {"by_option": score(preferred)} if preferred else {}
    return score(_predicted(f"{way}correct")) | by_option


def _teacher_metrics(name: str, student_size: int) -> dict[str, Any]:
    """Return the statuses of a teacher's rationales, its accuracy and, if known, its size."""
    path = tables.rationale_table(name)
    counts = Counter(tables.scan_column(path, "status"))
    metrics: dict[str, Any] = {"rationales": {status: counts[status] for status in STATUSES}}
    if size := int(tables.read_metadata(path).get("parameters", 0)):
        metrics |= {"parameters": size, "student_share": round(student_size / size, 6)}
    if answered := Counter(_own_answers(path, "test")):
        metrics |= score(answered)
    if reasoned := Counter(_own_answers(path, "train")):  # without teacher forcing
        metrics["train"] = score(reasoned)
    return metrics


def _own_answers(path: Path, split: str) -> Iterator[bool]:
    """Yield whether each answer of a teacher's own to a question of a split is right."""
    for rows, questions in with_questions(path, ["answer"], ["options", "answer"], split):
        given = pc.is_valid(rows["answer"])
        answers = rows["answer"].filter(given).to_pylist()
        yield from map(is_correct, answers, questions.filter(given).to_pylist())


def _write_bars(path: Path, name: str, bars: list[tuple[str, dict[str, Any]]]) -> None:
    """Write the accuracies of a bar plot with their intervals."""
    columns = (name, "accuracy", "low", "high", "questions")
    tables.write_text(path, csv_text(columns, ({name: label} | e for label, e in bars)))


if __name__ == "__main__":
    run_stage(evaluate, __doc__)
