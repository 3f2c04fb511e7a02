"""How well a rationale suits a student: the ratio of its tokens' ranks to their surprisals."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from stages.distil.encoding.samples import Sample
from stages.distil.interface.errors import UserError
from stages.distil.models.batching import by_length
from stages.distil.student.answering import StudentModel
from stages.distil.student.batch import Collator, autocast, target_logits

HIGHEST_RANK = 100
LEAST_SURPRISAL = 1e-6  # of a rationale whose tokens are all certain


@torch.no_grad()
def rank_surprisal_ratios(student: StudentModel, samples: Sequence[Sample]) -> list[float]:
    """Return Σ_t min(rank_t, 100) / Σ_t −log p_t over the target's tokens t, for each sample.

    The Rank-Surprisal Ratio (arXiv 2601.14249): the lower, the more a text of several plausible
    tokens has that is new to the student. The most probable token has the rank 1. A sample has one
    branch; the end-of-text of its target does not count. Raises `UserError` if a log-probability is
    not finite.
    """
    model, tokenizer, dtype = student
    model.eval()
    collate = Collator(model, tokenizer)
    ratios = [0.0] * len(samples)
    for chosen in by_length([sample.length for sample in samples], student.pass_tokens()):
        batch = collate([samples[n] for n in chosen]).to(model.device)
        with autocast(dtype):
            logits = target_logits(model, batch)
        surprisals = functional.cross_entropy(logits, batch.labels, reduction="none").cpu()
        if not surprisals.isfinite().all():
            raise UserError(
                f"{model.name_or_path}: log-probabilities are not finite in {dtype}; set "
                "student.dtype to float32, or choose another model"
            )
        ranks = _ranks(logits, batch.labels).clamp(max=HIGHEST_RANK).cpu()
        for n, target in zip(chosen, batch.targets, strict=True):
            tokens = slice(target.start, target.end - 1)
            surprisal = max(surprisals[tokens].sum().item(), LEAST_SURPRISAL)
            ratios[n] = ranks[tokens].sum().item() / surprisal
    return ratios


def _ranks(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the rank of each label (T,) among its logits (T, vocabulary), from 1."""
    own = logits.gather(1, labels[:, None])
    return (logits > own).sum(1) + 1
