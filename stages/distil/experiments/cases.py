"""The case study: questions that two methods answer differently."""

from stages.distil.experiments.compare import Rows, changed_questions
from stages.distil.experiments.plan import MAIN, Grid

SHOWN = 4  # questions of the case study on each side


def case_study(grid: Grid, answers: dict[str, list[Rows]]) -> str:
    """Return, as Markdown, questions that two methods answer differently with most seeds.

    `answers` are each method's predictions, one table a seed. TinyLLM, figure 4.
    """
    method, baseline = grid.case, grid.baseline
    ours, theirs = answers[method], answers[baseline]
    for a, b in zip(ours, theirs, strict=True):
        changed_questions(a, b)  # the same questions
    wins = [
        sum(a[n]["correct"] - b[n]["correct"] for a, b in zip(ours, theirs, strict=True))
        for n in range(len(ours[0]))
    ]
    order = sorted(range(len(wins)), key=lambda n: -wins[n])
    helped = [n for n in order if wins[n] > 0][:SHOWN]
    harmed = [n for n in reversed(order) if wins[n] < 0][:SHOWN]
    first = f", those first on which most of the {len(ours)} seeds do" if len(ours) > 1 else ""
    parts = [f"# Where {method} and {baseline} differ", ""]
    parts += [
        f"Test questions that they answer otherwise{first}; {method} does better on "
        f"{sum(win > 0 for win in wins)} of {len(wins)}, worse on "
        f"{sum(win < 0 for win in wins)}.",
        "",
    ]
    for title, chosen in ((f"{method} is right", helped), (f"{baseline} is right", harmed)):
        parts += [f"## {title}", ""]
        for n in chosen:
            row = ours[0][n]
            options = f" ({', '.join(row['options'])})" if row["options"] else ""
            parts += [
                f"**{_plain(row['id'])}** {_plain(row['question'] + options)}",
                "",
                f"The answer is {_plain(row['answer'])}.",
                "",
                f"| method | {' | '.join(f'seed {s}' for s in grid.figures[MAIN].seeds)} |",
                f"|---{'|---' * len(ours)}|",
            ]
            for name, each in answers.items():
                said = [rows[n] for rows in each]
                cells = [("✓ " if s["correct"] else "✗ ") + _plain(s["prediction"]) for s in said]
                parts.append(f"| {name} | {' | '.join(cells)} |")
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    marks = {ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#~&$"}
    return " ".join(text.split()).translate(marks)
