"""Stage `highlight`: show for people which words the answers hang on."""

from pathlib import Path

from stages.distil import tables
from stages.distil.command import run_stage
from stages.distil.highlights import kept_mass, page, read_scored
from stages.distil.parameters import Parameters

PAGE = Path("results/highlights.html")
MASS = Path("results/saliency.csv")
SHOWN = 60  # questions on the page


def highlight(parameters: Parameters) -> None:
    """Write the page of shaded questions, and how much of the scores the top k words hold."""
    scored = read_scored()
    mass = "".join(f"{k},{share}\n" for k, share in enumerate(kept_mass(scored.words)))
    tables.write_text(PAGE, page(scored, parameters.saliency, SHOWN))
    tables.write_text(MASS, "k,share\n" + mass)


if __name__ == "__main__":
    run_stage(highlight, __doc__)
