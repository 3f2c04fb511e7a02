"""Print the results of the last run; `make repro` ends with this."""

import json
import sys
from pathlib import Path
from typing import Any

from stages.distil.interface.command import TIMES
from stages.distil.interface.errors import report_errors
from stages.distil.storage.result_files import explain_damage, number, read_metrics


def print_summary() -> None:
    """Print accuracies with intervals, sizes, and how long each stage took in its last run."""
    metrics = read_metrics()
    times = {file.stem: _read_times(file) for file in sorted(TIMES.glob("*.json"))}
    head = f"{'accuracy':>8}  {'95 % interval':15} {'parameters':>10} {'student is':>10}"
    print(f"\n{'model':28} {head} {'answers/s':>9}")
    student = metrics["student"]
    rows = [("student", "student", student)]
    rows += [(f"{name}, zero-shot", name, entry) for name, entry in metrics["teachers"].items()]
    for label, name, entry in rows:
        if "accuracy" in entry:
            interval = f"{entry['low']:.3f} to {entry['high']:.3f}"
            size = f"{entry['parameters'] / 1e6:,.0f} M" if "parameters" in entry else ""
            share = f"{entry['student_share']:.1%}" if "student_share" in entry else ""
            timing = times.get(f"answers@{name}", {"seconds": 0.0})
            is_measured = timing["seconds"] > 0  # 0.0: too fast to measure
            rate = f"{timing['answers'] / timing['seconds']:.1f}" if is_measured else ""
            scores = f"{entry['accuracy']:8.3f}  {interval:15} {size:>10} {share:>10}"
            print(f"{label:28} {scores} {rate:>9}")
    print(f"the student answered {student['questions']} test questions")
    _print_student(student)
    print()
    for name, entry in metrics["teachers"].items():
        counts = ", ".join(f"{n} {status}" for status, n in entry["rationales"].items() if n)
        print(f"rationales of {name}: {counts}")
        if "train" in entry:
            train = entry["train"]
            print(f"  accuracy of its own answers to train questions: {train['accuracy']:.3f}")
    if salient := metrics["saliency"]:
        print(
            f"salient words: they include a word of the answer for {salient['overlap']:.3f} of the "
            f"questions ({salient['chance']:.3f} by chance)"
        )
    stages = {name: t["seconds"] for name, t in times.items() if "answers" not in t}
    if stages:
        print("\nseconds: " + ", ".join(f"{name} {value:.0f}" for name, value in stages.items()))


def _print_student(student: dict[str, Any]) -> None:
    """Print the student's ways of answering, and how well it writes what it was taught."""
    if "by_option" in student:
        print(f"the student's most probable option: {_accuracy(student['by_option'])}")
    if "reasoned" in student:
        ways = {"directly": student["direct"]} if "direct" in student else {}
        for way, entry in (ways | {"reasoning first": student["reasoned"]}).items():
            print(f"the student's answers, {way}: {_accuracy(entry)}")
        reasoned = student["reasoned"]
        unanswered = f"{reasoned['unanswered']} of its texts give no answer"
        print(f"it reasons in {reasoned['tokens']} tokens on average; {unanswered}")
    if "voted" in student:
        voted = student["voted"]
        print(f"the vote of {voted['samples']} drawn texts: {_accuracy(voted)}")
    taught = {"salient words": student["words"]} if "words" in student else {}
    taught |= {"reasoning": student["reasoning"]} if "reasoning" in student else {}
    taught |= {f"rationale of {name}": e for name, e in student.get("rationales", {}).items()}
    for name, entry in taught.items():
        measured = f"F1 {entry['f1']:.3f} on {entry['questions']} train questions"
        print(f"the student's {name}: {measured}")


def _accuracy(entry: dict[str, Any]) -> str:
    return f"{entry['accuracy']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def _read_times(file: Path) -> dict[str, float]:
    """Read the seconds that a stage took and, of a model's answers, how many there were."""
    with explain_damage(file, "delete it"):
        times = json.loads(file.read_bytes())
        keys = {"seconds", "answers"} if file.stem.startswith("answers@") else {"seconds"}
        return {key: number(times, key) for key in keys}


if __name__ == "__main__":
    sys.exit(report_errors("summary", "--debug" in sys.argv, print_summary))
