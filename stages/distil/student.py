"""The student: one pass over a question and all its targets, the multi-task loss, its answers.

Knows token ids, masks and losses; knows nothing of tables, of teachers' engines or of scoring.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.errors import UserError
from stages.distil.hardware import has_bfloat16
from stages.distil.prompts import ANSWER_TASK, SALIENCY_TASK, rationale_task

IGNORED = -100  # torch's label for a position without a target
ANSWER, SALIENCY = "answer", "saliency"
GENERATION_BATCH = 50


@dataclass(frozen=True)
class Branch:
    """One task of a question: `prefix` asks for it, `target` (ending in end-of-text) is learnt."""

    task: str
    prefix: list[int]
    target: list[int]


@dataclass(frozen=True)
class Sample:
    """A question's tokens and the branches that share them."""

    id: str
    context: list[int]
    branches: list[Branch]


def autocast() -> torch.autocast:
    """Return the precision that the student trains and answers in on this machine."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.autocast(device, dtype=torch.bfloat16, enabled=has_bfloat16())


def encode_sample(
    tokenizer: PreTrainedTokenizerBase, row: dict[str, Any], weights: dict[str, float], limit: int
) -> Sample:
    """Encode a row of `distill`; a task of weight 0 gets no branch.

    `weights` maps a task (`answer`, `saliency`, or a teacher's name) to its weight in the loss; the
    order of the teachers there numbers their rationales.
    Raises `UserError` for a row longer than `limit` tokens, the model's context.
    """

    def tokens(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    texts = [(ANSWER, ANSWER_TASK, row["answer"])]
    teachers = [task for task in weights if task not in (ANSWER, SALIENCY)]
    for r in row["rationales"]:
        if r["teacher"] in teachers:
            number = teachers.index(r["teacher"]) + 1
            texts.append((r["teacher"], rationale_task(number), r["text"]))
    texts += [(SALIENCY, SALIENCY_TASK, ", ".join(row["saliency"]))] if row["saliency"] else []
    sample = Sample(
        row["id"],
        tokens(row["context"]),
        [
            Branch(task, tokens(prefix), [*tokens(f" {text}"), tokenizer.eos_token_id])
            for task, prefix, text in texts
            if weights.get(task, 0.0) > 0
        ],
    )
    longest = max(len(b.prefix) + len(b.target) for b in sample.branches)
    if len(sample.context) + longest > limit:
        raise UserError(
            f"question {sample.id!r}: {len(sample.context) + longest} tokens, the student reads "
            f"{limit}; leave the question out or choose a student with a longer context"
        )
    return sample


def separate_tasks(samples: Sequence[Sample]) -> list[Sample]:
    """Return one sample a task: the papers' form, one pass per task, with the same losses."""
    return [Sample(s.id, s.context, [branch]) for s in samples for branch in s.branches]


def collate(samples: Sequence[Sample], tasks: Sequence[str], padding: int) -> dict[str, Tensor]:
    """Lay each sample out as its context followed by its branches, padded on the right.

    A branch attends to the context and to itself, and its positions go on from the context's end,
    so that each branch is computed as if it stood alone behind the question.

    Returns, for B samples of at most N tokens: `input_ids`, `position_ids`, `labels` (the token to
    predict after each position, or IGNORED) and `tasks` (index into `tasks`), all (B, N), and
    `attention_mask` (B, 1, N, N), true where a row may attend to a column.
    """
    lengths = [_input_length(sample) for sample in samples]
    size = (len(samples), max(lengths))
    input_ids = torch.full(size, padding)
    position_ids = torch.zeros(size, dtype=torch.long)
    labels = torch.full(size, IGNORED)
    task_ids = torch.zeros(size, dtype=torch.long)
    branch_ids = torch.full(size, -1)  # -1 padding, 0 context, then one number a branch
    for row, sample in enumerate(samples):
        here = len(sample.context)
        input_ids[row, :here] = torch.tensor(sample.context)
        position_ids[row, :here] = torch.arange(here)
        branch_ids[row, :here] = 0
        for number, branch in enumerate(sample.branches, start=1):
            inputs = branch.prefix + branch.target[:-1]
            end = here + len(inputs)
            input_ids[row, here:end] = torch.tensor(inputs)
            start = len(sample.context)
            position_ids[row, here:end] = torch.arange(start, start + len(inputs))
            labels[row, here + len(branch.prefix) - 1 : end] = torch.tensor(branch.target)
            task_ids[row, here:end] = tasks.index(branch.task)
            branch_ids[row, here:end] = number
            here = end
    earlier = torch.ones(size[1], size[1], dtype=torch.bool).tril()
    same_branch = branch_ids[:, :, None] == branch_ids[:, None, :]
    to_context = (branch_ids[:, None, :] == 0) & (branch_ids[:, :, None] > 0)
    return {
        "input_ids": input_ids,
        "position_ids": position_ids,
        "attention_mask": (earlier & (same_branch | to_context))[:, None],
        "labels": labels,
        "tasks": task_ids,
    }


def task_losses(model: PreTrainedModel, batch: dict[str, Tensor], count: int) -> Tensor:
    """Return the mean cross-entropy of each of `count` tasks over its own targets, shape (count,).

    A task without a target in the batch has loss 0. Logits are computed at target positions only.
    """
    mask = batch["attention_mask"]
    if model.config._attn_implementation == "eager":  # adds its mask to the scores
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    hidden = model.base_model(
        input_ids=batch["input_ids"],
        attention_mask=mask,
        position_ids=batch["position_ids"],
        use_cache=False,
    ).last_hidden_state
    wanted = batch["labels"] != IGNORED
    logits = model.get_output_embeddings()(hidden[wanted])
    losses = functional.cross_entropy(logits.float(), batch["labels"][wanted], reduction="none")
    tasks = batch["tasks"][wanted]
    zeros = torch.zeros(count, device=losses.device)
    sums = zeros.index_add(0, tasks, losses)
    return sums / zeros.index_add(0, tasks, torch.ones_like(losses)).clamp(min=1)


def total_loss(losses: Tensor, weights: Tensor) -> Tensor:
    """L = L_answer + Σ_m α_m L_rationale(m) + λ L_saliency (TinyLLM eq. 6, with saliency added)."""
    return (losses * weights).sum()


@torch.no_grad()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[dict[str, Any]],
    max_tokens: int,
) -> list[str]:
    """Return the student's greedy text for each question (rows of `distill`), in their order."""
    prefix = tokenizer.encode(ANSWER_TASK, add_special_tokens=False)
    prompts = [tokenizer.encode(q["context"], add_special_tokens=False) + prefix for q in questions]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    training = model.training
    model.eval()
    for start in range(0, len(prompts), GENERATION_BATCH):
        chosen = by_length[start : start + GENERATION_BATCH]
        longest = max(len(prompts[i]) for i in chosen)
        ids = torch.full((len(chosen), longest), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, longest - len(prompts[i]) :] = 1
        with autocast():
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        for i, tokens in zip(chosen, output[:, longest:], strict=True):
            texts[i] = tokenizer.decode(tokens, skip_special_tokens=True)
    model.train(training)
    return texts


def _input_length(sample: Sample) -> int:
    return len(sample.context) + sum(len(b.prefix) + len(b.target) - 1 for b in sample.branches)
