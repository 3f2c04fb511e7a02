"""What the quality gate makes of published rationales, and whether it agrees with their authors.

It reads the data sets of `params.yaml` that lie in files and hold rationales, and prints the
statuses per teacher. Distilling step-by-step (Hsieh et al., 2023) takes PaLM's label from the end
of its text, "So the answer is …": `agreement` is the share of texts that the gate finds right where
that label is right, and wrong where it is wrong. The last line is a JSON object.
"""

import argparse
import ast
import json
import re
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

from stages.distil.interface.catalogue import Files
from stages.distil.interface.errors import report_errors
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.quality import OK, STATUSES, read_published
from stages.distil.questions.reading import read
from stages.distil.storage.examples import Example

PALM = "palm-540b"
LABEL = re.compile(r".*\banswer is (?:\(([a-e])\) )?(.*?)\.?\s*", re.DOTALL)
OPERATIONS = {
    ast.Add: Fraction.__add__,
    ast.Sub: Fraction.__sub__,
    ast.Mult: Fraction.__mul__,
    ast.Div: Fraction.__truediv__,
}


def value(text: str) -> Fraction:
    """Return the value of a text of numbers, + − × ÷ and parentheses; raises `ValueError`."""

    def of(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() | float() as number):
                return Fraction(str(number))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -of(operand)
            case ast.BinOp(left=left, op=operation, right=right):
                return OPERATIONS[type(operation)](of(left), of(right))
        raise ValueError(text)

    try:
        return of(ast.parse(text.replace(",", "").strip(), mode="eval").body)
    except (SyntaxError, KeyError, ZeroDivisionError) as error:
        raise ValueError(text) from error


def authors_verdict(text: str, example: Example) -> bool | None:
    """Return whether PaLM's label, as its authors read it, is the answer; None without a label."""
    if not (found := LABEL.fullmatch(text)):
        return None
    label = found[2].strip().lower()
    if example.options:
        return label == example.answer.lower()
    try:
        return value(label) == value(example.answer)
    except ValueError:
        return None


def statuses(data: Files) -> tuple[dict[str, Counter[str]], Counter[bool], Counter[str]]:
    """Return each teacher's statuses, whether PaLM's agree with the authors, and rows by split."""
    counts: dict[str, Counter[str]] = {}
    agreement: Counter[bool] = Counter()
    rows: Counter[str] = Counter()
    for example in read(data, 0, 50_000, Counter()):
        if not isinstance(example, Example):
            rows["repeated" if example.repeated else "refused"] += 1
            continue
        rows[example.split] += 1
        for teacher, texts in example.rationales.items() if example.split == "train" else ():
            for text in texts:
                conclude = data.must_conclude(teacher)
                _, status = read_published(text, example.options, example.answer, conclude)
                counts.setdefault(teacher, Counter())[status] += 1
                verdict = authors_verdict(text, example) if teacher == PALM else None
                if verdict is not None:
                    agreement[verdict == (status == OK)] += 1
    return counts, agreement, rows


def main() -> None:
    """Print the table and the agreement of each data set whose folder exists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="data sets of params.yaml (default: all in files)")
    names = parser.parse_args().names
    result = {}
    for name, data in load_parameters(Path("params.yaml")).datasets.items():
        if not isinstance(data, Files) or not data.folder.is_dir() or (names and name not in names):
            continue
        counts, agreement, rows = statuses(data)
        listed = ", ".join(f"{count:,} {split}" for split, count in sorted(rows.items()))
        print(f"{name}: {listed}")
        for teacher, own in counts.items():
            shown = ", ".join(f"{own[s] / own.total():.1%} {s}" for s in STATUSES if own[s])
            print(f"  {teacher}: {own.total():,} texts: {shown}")
        result[name] = {teacher: dict(own) for teacher, own in counts.items()}
        if agreement:
            share = agreement[True] / agreement.total()
            print(f"  agreement with the authors on {agreement.total():,} texts: {share:.1%}")
            result[name]["agreement"] = round(share, 4)
    if not result:
        sys.exit("error: no data set of params.yaml lies in files that are here")
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(report_errors("gate", debug=False, action=main))
