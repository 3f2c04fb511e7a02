"""The case study: questions that two methods answer differently."""

from stages.distil.experiments.compare import Rows, changed_questions
from stages.distil.experiments.plan import MAIN, Grid
from stages.distil.interface.escaping import for_markdown

SHOWN = 4  # questions for each side of the case study


def case_study(grid: Grid, answers: dict[str, list[Rows]]) -> str:
    """Return, as Markdown, the questions on which two methods differ for most seeds.

    `answers` contains the predictions of each method, one table per seed. TinyLLM, figure 4.
    """
    method, baseline = grid.case, grid.baseline
    ours, theirs = answers[method], answers[baseline]
    for a, b in zip(ours, theirs, strict=True):
        changed_questions(a, b)  # raises if the questions differ
    wins = [
        sum(a[n]["correct"] - b[n]["correct"] for a, b in zip(ours, theirs, strict=True))
        for n in range(len(ours[0]))
    ]
    order = sorted(range(len(wins)), key=lambda n: -wins[n])
    helped = [n for n in order if wins[n] > 0][:SHOWN]
    harmed = [n for n in reversed(order) if wins[n] < 0][:SHOWN]
    order_note = f", sorted by how many of the {len(ours)} seeds agree" if len(ours) > 1 else ""
    parts = [f"# Where {method} and {baseline} differ", ""]
    parts += [
        f"Test questions that they answer differently{order_note}. {method} does better on "
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
                f"**{for_markdown(row['id'])}** {for_markdown(row['question'] + options)}",
                "",
                f"The answer is {for_markdown(row['answer'])}.",
                "",
                f"| method | {' | '.join(f'seed {s}' for s in grid.figures[MAIN].seeds)} |",
                f"|---{'|---' * len(ours)}|",
            ]
            for name, by_seed in answers.items():
                predictions = [rows[n] for rows in by_seed]
                cells = [
                    ("✓ " if p["correct"] else "✗ ") + for_markdown(p["prediction"])
                    for p in predictions
                ]
                parts.append(f"| {for_markdown(name)} | {' | '.join(cells)} |")
            parts.append("")
    return "\n".join(parts).rstrip() + "\n"
