"""Stage `card`: describe the assembled data set with a data card and a plot of text lengths."""

from pathlib import Path

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.storage import tables
from stages.distil.storage.examples import SPLITS
from stages.distil.storage.lengths import read_lengths

LENGTHS = Path("results/lengths.csv")


def card(parameters: Parameters) -> None:
    """Write the data card next to the data set, and the lengths of its texts in tokens."""
    written = (tables.LENGTHS, tables.NEAR_COPIES, tables.REJECTED)
    for path in (*map(tables.distill_table, SPLITS), *written):
        tables.check_exists(path)
    from stages.distil.dataset.card import describe

    lengths = read_lengths()
    tables.write_text(tables.CARD, describe(parameters, lengths))
    lines = [
        f"{text},{tokens},{rows}\n"
        for text, counts in lengths.items()
        for tokens, rows in counts.histogram()
    ]
    tables.write_text(LENGTHS, "text,tokens,rows\n" + "".join(lines))


if __name__ == "__main__":
    run_stage(card, __doc__)
