"""Samples as the tensors of a forward pass, and the student's logits at their targets."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.encoding.samples import Branch, Sample, said, separate_tasks
from stages.distil.interface.errors import UserError
from stages.distil.models.batching import pad
from stages.distil.models.generation import logits_at
from stages.distil.models.hardware import device, explain_out_of_memory

Measure = Callable[[Tensor, Tensor], Tensor]
HEAD_BYTES = 2**29  # of the float32 logits that are computed at once
PARTS = 8  # if they would take more, a part takes HEAD_BYTES / PARTS
UNCHANGED = 12_345.678  # no logit is that large, so what a model does to logits changes it
_CHANGES_LOGITS: WeakSet[PreTrainedModel] = WeakSet()
TOLERANCE = 2e-5  # of the logits' norm; SmolLM2's differ by 1e-6, of rounding, in float32


class Target(NamedTuple):
    """The target of a branch: its tokens are `start` to `end`, exclusive, of all those of a batch.

    `question` is the id of its question.
    """

    question: str
    branch: Branch
    start: int
    end: int


@dataclass(frozen=True)
class Batch:
    """What the student reads in one pass, and what it must predict.

    `inputs` are the model's arguments. `predicts` (B, N) is true at each of the T positions whose
    next token belongs to a target; for an encoder-decoder they are the decoder's, with a row for
    each branch, and `rows` (B,) tells which question each of them reads. `labels` (T,) are those
    tokens, row by row, and `targets` describes them.
    """

    inputs: dict[str, Tensor]
    predicts: Tensor
    labels: Tensor
    targets: list[Target]
    rows: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its tensors on a device."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        rows = None if self.rows is None else self.rows.to(device)
        moved = (self.predicts.to(device), self.labels.to(device), self.targets, rows)
        return Batch(inputs, *moved)

    def without_targets(self) -> "Batch":
        """Return the batch with nothing to predict: a pass whose loss is 0."""
        nowhere = torch.zeros_like(self.predicts)
        return Batch(self.inputs, nowhere, self.labels[:0], [], self.rows)


class Collator:
    """Turns samples into a batch."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        """Take the student."""
        self._encoder_decoder = model.config.is_encoder_decoder
        self._start = model.config.decoder_start_token_id if self._encoder_decoder else -1
        self._padding = tokenizer.pad_token_id or 0

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Return the batch of `samples`."""
        branches = [(sample.id, branch) for sample in samples for branch in sample.branches]
        spans = pairwise(accumulate((len(b.target) for _, b in branches), initial=0))
        targets = [Target(*each, *span) for each, span in zip(branches, spans, strict=True)]
        labels = torch.tensor([token for _, b in branches for token in b.target], dtype=torch.long)
        if self._encoder_decoder:
            inputs, predicts, rows = self._encoder_decoder_inputs(samples)
            return Batch(inputs, predicts, labels, targets, rows)
        return Batch(*self._decoder_inputs(samples), labels, targets)

    def _decoder_inputs(self, samples: Sequence[Sample]) -> tuple[dict[str, Tensor], Tensor]:
        """Lay out each sample as its context followed by its branches, padded on the right.

        A branch attends to the context and to itself, and its positions start at the end of the
        context; one after the answer also attends to the first branch, and starts at its end. So
        each branch is computed as if it alone followed the question, or the answer.

        Returns, for B samples of at most N tokens, `input_ids` and `position_ids` (B, N), and
        `attention_mask` (B, 1, N, N), true where a row may attend to a column; and where the next
        token belongs to a target, (B, N).

        Samples of one branch are ordinary texts: the model forms its own positions and mask, such
        as a sliding window, from an `attention_mask` (B, N) of the tokens that are not padding.
        """
        size = (len(samples), max(sample.length for sample in samples))
        input_ids = torch.full(size, self._padding)
        position_ids = torch.zeros(size, dtype=torch.long)
        predicts = torch.zeros(size, dtype=torch.bool)
        branch_ids = torch.full(size, -1)  # -1 padding, 0 context, then one number a branch
        after_answer = torch.zeros(size, dtype=torch.bool)
        for row, sample in enumerate(samples):
            length = start = len(sample.context)
            input_ids[row, :length] = torch.tensor(sample.context)
            position_ids[row, :length] = torch.arange(length)
            branch_ids[row, :length] = 0
            answered = length + len(said(sample)) if sample.branches else length
            for number, branch in enumerate(sample.branches, start=1):
                tokens = branch.prefix + branch.target[:-1]
                end = start + len(tokens)
                input_ids[row, start:end] = torch.tensor(tokens)
                first = answered if branch.after_answer else length
                position_ids[row, start:end] = torch.arange(first, first + len(tokens))
                after_answer[row, start:end] = branch.after_answer
                predicts[row, start + len(branch.prefix) - 1 : end] = True
                branch_ids[row, start:end] = number
                start = end
        if all(len(sample.branches) <= 1 for sample in samples):
            return {"input_ids": input_ids, "attention_mask": (branch_ids >= 0).long()}, predicts
        earlier = torch.ones(size[1], size[1], dtype=torch.bool).tril()
        same_branch = branch_ids[:, :, None] == branch_ids[:, None, :]
        to_context = (branch_ids[:, None, :] == 0) & (branch_ids[:, :, None] > 0)
        to_answer = (branch_ids[:, None, :] == 1) & after_answer[:, :, None]
        mask = (earlier & (same_branch | to_context | to_answer))[:, None]
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": mask}
        return inputs, predicts

    def _encoder_decoder_inputs(
        self, samples: Sequence[Sample]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Lay out contexts for the encoder and branches for the decoder, padded on the right.

        Returns, for B samples with R branches in all: `input_ids` and `attention_mask` (B, N), and
        `decoder_input_ids` (R, M); where the decoder predicts a target, (R, M); and the sample of
        each branch, (R,).
        """
        input_ids, mask = pad([sample.context for sample in samples], self._padding)
        pairs = [(row, b) for row, sample in enumerate(samples) for b in sample.branches]
        decoder_rows = [[self._start, *b.prefix, *b.target[:-1]] for _, b in pairs]
        decoder_ids, _ = pad(decoder_rows, self._padding)
        predicts, _ = pad([[0] * len(b.prefix) + [1] * len(b.target) for _, b in pairs], 0)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
            "decoder_input_ids": decoder_ids,
        }
        return inputs, predicts.bool(), torch.tensor([row for row, _ in pairs])


def autocast(dtype: str, keep: bool = True) -> torch.autocast:
    """Return a context in which float32 weights compute in `dtype`: `bfloat16` or `float32`.

    Weights that were converted are kept until it ends, in case they are used again, unless `keep`
    is false.
    """
    enabled = dtype == "bfloat16"
    return torch.autocast(device(), torch.bfloat16, enabled, cache_enabled=keep)


def target_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the logits (T, vocabulary) from which the labels of a batch are predicted, in float32.

    The model's own head computes them at these positions only; an encoder reads each question once.
    `model` may be wrapped for several processes.
    """
    plain = getattr(model, "module", model)
    with logits_at(plain, batch.predicts):
        return _outputs(model, batch).float()


def target_values(model: PreTrainedModel, batch: Batch, measure: Measure) -> Tensor:
    """Return what `measure` makes of the logits of a batch, (T, k).

    It takes float32 logits (n, vocabulary) and their labels (n,), and returns values (n, k). Where
    the logits of all T positions would take more than HEAD_BYTES, they are computed and measured
    in smaller parts, and once more for the gradient, so that memory does not grow with T. That
    cannot be done for a model that changes its logits after its head, as Gemma 2 does; stderr says
    so.
    """
    plain = getattr(model, "module", model)
    rows = HEAD_BYTES // (4 * plain.config.get_text_config().vocab_size)
    if len(batch.labels) > rows and plain not in _CHANGES_LOGITS:
        with _measured_in_parts(plain, batch, measure, max(1, rows // PARTS)):
            values = _outputs(model, batch)
        if values[-1].eq(UNCHANGED).all():
            return values[:-1]
        _CHANGES_LOGITS.add(plain)
        print(
            f"{type(plain).__name__} changes its logits after its output head, so those of a pass "
            "are computed at once, which takes more memory",
            file=sys.stderr,
        )
    return measure(target_logits(model, batch), batch.labels)


def _outputs(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return what the model makes of its head's output (1, n, k), as (n, k)."""
    plain = getattr(model, "module", model)
    inputs = dict(batch.inputs)
    if batch.rows is not None:
        inputs["attention_mask"] = inputs["attention_mask"][batch.rows]  # of cross-attention
    elif inputs["attention_mask"].dim() == 4:
        attention = plain.config._attn_implementation
        inputs["attention_mask"] = _for_attention(inputs["attention_mask"], attention)
    with _encode_once(plain, batch):
        return model(**inputs, use_cache=False).logits[0]


def _for_attention(allowed: Tensor, attention: str) -> Tensor:
    """Return a mask (B, 1, N, N) in the form that a kind of attention takes.

    Eager attention adds it to the scores. On a CPU, so does the fused kernel, and each layer would
    keep its own copy of a mask of another type.
    """
    if attention == "eager":
        return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
    if allowed.is_cuda:
        return allowed
    reduced = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if reduced else torch.float32
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, -torch.inf)


@contextmanager
def _measured_in_parts(
    model: PreTrainedModel, batch: Batch, measure: Measure, rows: int
) -> Iterator[None]:
    """Let the output head return measured values (1, T + 1, k) in the place of logits.

    `rows` positions are measured at once. The last values are UNCHANGED, by which one sees whether
    the model leaves its head's output as it is.
    """
    whole: list[Tensor] = []

    def keep_input(_: Any, args: tuple) -> tuple:
        whole.append(args[0])
        return (args[0][:1, :1],)  # so that the head itself does next to nothing

    def measure_in_parts(head: torch.nn.Module, *_: Any) -> Tensor:
        def part(hidden: Tensor, labels: Tensor) -> Tensor:
            return measure(head.forward(hidden).float(), labels)

        hidden = whole.pop()[batch.predicts]
        pieces = zip(hidden.split(rows), batch.labels.split(rows), strict=True)
        enabled = torch.is_autocast_enabled(hidden.device.type)
        with autocast("bfloat16" if enabled else "float32"):  # keeps the head for all parts
            values = torch.cat([checkpoint(part, *piece, use_reentrant=False) for piece in pieces])
        return torch.cat([values, torch.full_like(values[:1], UNCHANGED)])[None]

    head = model.get_output_embeddings()
    hooks = [
        head.register_forward_pre_hook(keep_input),
        head.register_forward_hook(measure_in_parts),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _encode_once(model: PreTrainedModel, batch: Batch) -> Iterator[None]:
    """Let an encoder read each question once and repeat its output for each branch."""
    if batch.rows is None:
        yield
        return

    def use_encoder_mask(
        _: Any, args: tuple, keywords: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]]:
        return args, keywords | {"attention_mask": batch.inputs["attention_mask"]}

    def repeat_output(_: Any, args: tuple, output: Any) -> Any:
        output["last_hidden_state"] = output["last_hidden_state"][batch.rows]
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

    def logits(sample: Sample) -> Tensor:
        with explain_out_of_memory("a question", "lower student.context"):
            return target_logits(model, collate([sample]).to(model.device))

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
