"""The multi-task loss of a batch, and whether a student may compute it in one pass a question."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from stages.distil.interface.errors import UserError
from stages.distil.models.generation import logits_at
from stages.distil.models.hardware import device, explain_out_of_memory
from stages.distil.student.collator import IGNORED, NUMBERED, Collator
from stages.distil.student.samples import Sample, separate_tasks

UNREAD = ("labels", "tasks", "rows", *NUMBERED)  # of a batch; not the model's
TOLERANCE = 2e-5  # of the logits' norm; SmolLM2's differ by 1e-6, of rounding, in float32


def autocast(dtype: str) -> torch.autocast:
    """Return a context in which float32 weights compute in `dtype`: `bfloat16` or `float32`."""
    return torch.autocast(device(), dtype=torch.bfloat16, enabled=dtype == "bfloat16")


def task_sums(
    model: PreTrainedModel, batch: dict[str, Tensor], count: int, temperature: float = 1.0
) -> Tensor:
    """Return the summed cross-entropy of each of `count` tasks over its targets, shape (count,).

    If the batch has `weights`, they multiply the targets' losses. Of the pairs of a batch, the sum
    is that of `mutual_information`; of options with a teacher's scores, that of
    `soft_cross_entropy`. `model` may be wrapped for several processes.
    """
    is_target = batch["labels"] != IGNORED
    logits = target_logits(model, batch).float()
    losses = functional.cross_entropy(logits, batch["labels"][is_target], reduction="none")
    zeros = torch.zeros(count, device=losses.device)
    weighted = losses * batch["weights"] if "weights" in batch else losses
    sums = zeros.index_add(0, batch["tasks"][is_target], weighted)
    if "pairs" in batch:
        pairs = batch["pairs"]
        terms = mutual_information(logits, pairs[:, :4].tolist())
        sums = sums.index_add(0, pairs[:, 4], terms)
    if "options" in batch:
        spans, questions, tasks = batch["options"].split([2, 1, 1], dim=1)
        scores = torch.stack([-losses[start:end].mean() for start, end in spans.tolist()])
        sizes = questions.flatten().unique_consecutive(return_counts=True)[1].tolist()
        by_question = zip(batch["scores"].split(sizes), scores.split(sizes), strict=True)
        terms = torch.stack([soft_cross_entropy(*both, temperature) for both in by_question])
        sums = sums.index_fill(0, tasks[0], 0.0).index_add(0, tasks[0].expand(len(terms)), terms)
    return sums


def soft_cross_entropy(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """L = −T² Σ_o softmax(t/T)_o log softmax(s/T)_o (Hinton et al., 2015, sections 2 and 2.1).

    T² keeps the gradient's size the same at any temperature. The scores t and s, shape (options,),
    are mean log-probabilities of an option's tokens, as `evaluate` compares options: a sum favours
    short options, and one that another option begins with would always beat that other.
    """
    target = (teacher / temperature).softmax(0)
    return functional.cross_entropy(student / temperature, target) * temperature**2


def mutual_information(logits: Tensor, pairs: Sequence[Sequence[int]]) -> Tensor:
    """Return the loss of each answer and rationale that maximises their mutual information, (P,).

    L_MI = −Σ_v f(Z)_v log softmax(f(V))_v  with  f(X)_v = max_t softmax(X_t)_v

    (Chen et al., Findings of ACL 2024, section 3, as in the authors' code: f(Z) is a constant, and
    f(V) goes through the softmax of torch's cross-entropy.) Z and V are the logits of an answer and
    of a rationale, rows of `logits` (targets, vocabulary): a pair holds the first row of Z, the row
    after its last, and the same of V.

    The paper trains T5, whose decoder writes nothing but a target, and its code also takes the
    maximum over padding. Here the positions t are those of targets alone, for a decoder-only
    student too.
    """

    def pooled(start: int, end: int) -> Tensor:
        return logits[start:end].softmax(-1).amax(0)

    losses = [
        functional.cross_entropy(pooled(start, end), pooled(*answer).detach())
        for *answer, start, end in pairs
    ]
    return torch.stack(losses)


def target_logits(model: PreTrainedModel, batch: dict[str, Tensor]) -> Tensor:
    """Return the logits (targets, vocabulary) of a batch, row by row.

    The model's own head computes them at target positions only; an encoder reads each question
    once.
    """
    plain = getattr(model, "module", model)
    is_target = batch["labels"] != IGNORED
    inputs = {k: v for k, v in batch.items() if k not in UNREAD}
    if plain.config.is_encoder_decoder:
        inputs["attention_mask"] = batch["attention_mask"][batch["rows"]]  # of cross-attention
    elif batch["attention_mask"].dim() == 4 and plain.config._attn_implementation == "eager":
        allowed = batch["attention_mask"]  # eager attention adds its mask to the scores
        inputs["attention_mask"] = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    with logits_at(plain, is_target), _encode_once(plain, batch):
        return model(**inputs, use_cache=False).logits[0]


@contextmanager
def _encode_once(model: PreTrainedModel, batch: dict[str, Tensor]) -> Iterator[None]:
    """Let an encoder read each question once and repeat its output for each branch."""
    if not model.config.is_encoder_decoder:
        yield
        return

    def use_encoder_mask(
        _: Any, args: tuple, keywords: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        return args, keywords | {"attention_mask": batch["attention_mask"]}

    def repeat_output(_: Any, args: tuple, output: Any) -> Any:
        output["last_hidden_state"] = output["last_hidden_state"][batch["rows"]]
        return output

    encoder = model.get_encoder()
    hooks = [
        encoder.register_forward_pre_hook(use_encoder_mask, with_kwargs=True),
        encoder.register_forward_hook(repeat_output),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def total_loss(sums: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """L = L_answer + Σ_m α_m L_rationale(m) + λ L_saliency (TinyLLM eq. 6, with saliency added).

    β L_MI and w L_soft are added likewise. `sums` are those of `task_sums`, `counts` those of
    `count_targets`, and `weights` are those in the loss times the step's `coverage`, each of shape
    (tasks,). So L_m = n/N · Σ_t w_t ℓ_t / T over the T target tokens of a teacher that explains n
    of the N questions of a step: what a rationale weighs does not depend on how many others there
    are. Weights of targets do not change T; a task without targets adds 0.
    """
    return (sums / counts.clamp(min=1) * weights).sum()


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
