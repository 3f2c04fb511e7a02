"""Whether a student may read a question once for all its targets."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from stages.distil.interface.errors import UserError
from stages.distil.models.hardware import explain_out_of_memory
from stages.distil.student.collator import Collator
from stages.distil.student.loss import target_logits
from stages.distil.student.samples import Sample, separate_tasks

TOLERANCE = 2e-5  # of the logits' norm; SmolLM2's differ by 1e-6, of rounding, in float32


@torch.no_grad()
def check_shared_context(
    model: PreTrainedModel, collate: Collator, samples: Sequence[Sample]
) -> None:
    """Raise `UserError` if the branches of a sample change each other's logits.

    Each must be computed as if it alone followed the question. That fails where layers carry a
    state along the text (state-space models, linear attention, convolutions), where a sliding
    window is shorter than the sample, and where positions are counted from the mask (ALiBi). The
    longest sample with several branches is computed at once and branch by branch.
    """
    shared = [sample for sample in samples if len(sample.branches) > 1]
    if not shared:
        return
    longest = max(shared, key=lambda sample: sample.length)
    training = model.training
    model.eval()

    def logits(sample: Sample) -> torch.Tensor:
        batch = {name: tensor.to(model.device) for name, tensor in collate([sample]).items()}
        with explain_out_of_memory("a question", "lower student.context"):
            return target_logits(model, batch).float()

    separate = torch.cat([logits(sample) for sample in separate_tasks([longest])])
    try:
        difference = ((logits(longest) - separate).norm() / separate.norm()).item()
        found = f"on question {longest.id!r} they differ by {difference:.1g} of their size"
    except (RuntimeError, TypeError, ValueError) as error:  # of a mask that the model cannot take
        difference, found = float("inf"), f"{type(error).__name__}: {error}".splitlines()[0]
    model.train(training)
    if not difference <= TOLERANCE:
        raise UserError(
            f"student.shared_context: {type(model).__name__} does not compute the targets of a "
            f"question independently of each other ({found}), as models with a state or a sliding "
            "window do not; set student.shared_context=false"
        )
