"""How well a rationale suits a student: the ratio of its tokens' ranks to their surprisals."""

from collections.abc import Sequence

from stages.distil.encoding.samples import Sample
from stages.distil.evaluation.probes import read_targets
from stages.distil.student.answering import StudentModel

HIGHEST_RANK = 100
LEAST_SURPRISAL = 1e-6  # of a rationale whose tokens are all certain


def rank_surprisal_ratios(student: StudentModel, samples: Sequence[Sample]) -> list[float]:
    """Return Σ_t min(rank_t, 100) / Σ_t −log p_t over the target's tokens t, for each sample.

    The Rank-Surprisal Ratio (arXiv 2601.14249): the lower, the more a text of several plausible
    tokens has that is new to the student. The most probable token has the rank 1. A sample has one
    branch; the end-of-text of its target does not count. Raises `UserError` if a log-probability is
    not finite.
    """
    ratios = [0.0] * len(samples)
    for chosen, batch, values in read_targets(student, samples):
        ranks = values.ranks.clamp(max=HIGHEST_RANK)
        for n, target in zip(chosen, batch.targets, strict=True):
            tokens = slice(target.start, target.end - 1)
            surprisal = max(values.losses[tokens].sum().item(), LEAST_SURPRISAL)
            ratios[n] = ranks[tokens].sum().item() / surprisal
    return ratios
