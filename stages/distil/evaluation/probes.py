"""The student's answers and options, and its words and rationales beside their targets."""

import sys
from collections.abc import Sequence
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.evaluation.statistics import f1
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import ANSWER, SALIENCY
from stages.distil.language.answers import normalise
from stages.distil.language.student_prompts import SALIENCY_TASK, rationale_task
from stages.distil.models.batching import by_length
from stages.distil.models.layers import attention_span
from stages.distil.student.answering import decode, generate_answers, inference_tokens
from stages.distil.student.collator import IGNORED, Collator
from stages.distil.student.loss import autocast, target_logits
from stages.distil.student.samples import Encoder, Sample, separate_tasks


class ReadOption(NamedTuple):
    """An option as the student reads it.

    `score` is the mean log-probability of its tokens; `greedy` tells whether it is the student's
    greedy text: each of its tokens, and the end-of-text after them, is the most probable one.
    """

    score: float
    greedy: bool


def answer_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    rows: Sequence[dict[str, Any]],
    max_tokens: int,
    dtype: str,
) -> list[tuple[str, list[float]]]:
    """Return the student's greedy text, and the score of each option, for rows of `distill`.

    The options are drafts of the text, as in speculative decoding (Leviathan et al., 2023): one
    pass reads a question with all of them, and a text is written token by token only where it is
    none of them. A text has at most `max_tokens` tokens; `dtype` is the precision.
    """
    prompts = [encoder.prompt(row, max_tokens) for row in rows]
    samples = [encoder.options(row) for row in rows]
    read = read_options(model, tokenizer, samples, dtype)
    texts: dict[int, str] = {}
    for n, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        branches = ((each.context, branch) for each in sample for branch in each.branches)
        for (context, branch), option in zip(branches, read[n], strict=True):
            asked = (context, branch.prefix) == (prompt.context, prompt.branches[0].prefix)
            if option.greedy and asked and len(branch.target) <= max_tokens:
                [texts[n]] = decode(tokenizer, [branch.target])
    others = [n for n in range(len(rows)) if n not in texts]
    chosen = [prompts[n] for n in others]
    written = generate_answers(model, tokenizer, chosen, max_tokens, dtype)
    texts |= dict(zip(others, written, strict=True))
    return [(texts[n], [option.score for option in read[n]]) for n in range(len(rows))]


@torch.no_grad()
def read_options(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Sequence[Sample]],
    dtype: str,
) -> list[list[ReadOption]]:
    """Return what the student makes of each option, question by question.

    `questions` are samples of `Encoder.options`; `dtype` is the precision. Raises `UserError` if
    a log-probability is not finite.
    """
    questions = _readable(model, questions)
    samples = [s for of_question in questions for s in of_question if s.branches]
    read: list[list[ReadOption]] = [[] for _ in samples]
    collate = Collator(model, tokenizer, [ANSWER])
    model.eval()
    for batch in by_length([sample.length for sample in samples], inference_tokens(model)):
        tensors = collate([samples[n] for n in batch])
        labels = tensors["labels"][tensors["labels"] != IGNORED].to(model.device)
        with autocast(dtype):
            on_device = {name: tensor.to(model.device) for name, tensor in tensors.items()}
            logits = target_logits(model, on_device).float()
        losses = functional.cross_entropy(logits, labels, reduction="none").cpu()
        if not losses.isfinite().all():
            raise UserError(
                f"{model.name_or_path}: log-probabilities are not finite in {dtype}; set "
                "student.dtype to float32, or choose another model"
            )
        greedy = (logits.argmax(-1) == labels).cpu()
        branches = [(n, len(branch.target)) for n in batch for branch in samples[n].branches]
        sizes = [size for _, size in branches]
        for (n, _), loss, same in zip(
            branches, losses.split(sizes), greedy.split(sizes), strict=True
        ):
            read[n].append(ReadOption(-loss[:-1].mean().item(), bool(same.all())))
    by_sample = iter(read)
    return [
        [option for s in of_question if s.branches for option in next(by_sample)]
        for of_question in questions
    ]


def _readable(
    model: PreTrainedModel, questions: Sequence[Sequence[Sample]]
) -> Sequence[Sequence[Sample]]:
    """Return one sample per option if the model cannot read a question once for all of them.

    It cannot if a layer carries a state, or has a sliding window shorter than a sample.
    """
    shared = [s.length for of_question in questions for s in of_question if len(s.branches) > 1]
    if not shared or model.config.is_encoder_decoder or max(shared) <= attention_span(model):
        return questions
    return [separate_tasks(of_question) for of_question in questions]


def explanation_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    rows: Sequence[dict[str, Any]],
    teachers: Sequence[str],
    dtype: str,
) -> dict[str, Any]:
    """Measure how well the student repeats the salient words and rationales it was taught.

    `rows` are train rows of `distill`. Returns the mean F1 of the salient words, and of the words
    of each teacher's rationales, if there are any:
    `{"words": {"f1", "questions"}, "rationales": {teacher: {"f1", "questions"}}}`. A target that is
    too long for the student, which training left out, is not measured; stderr says how many are.
    """

    def measure(
        label: str,
        task: tuple[str, str],
        targets: dict[int, tuple[str, list[str]]],
        separator: str | None,
    ) -> dict[str, Any] | None:
        """Compare what the student writes with `targets`, text and words by number of row.

        `task` is its name and the prefix that asks for it.
        """
        lengths = {n: len(encoder.target(text)) for n, (text, _) in targets.items()}
        taught = [n for n in targets if encoder.fits(rows[n], lengths[n] + 1, *task)]
        longest = max((lengths[n] for n in taught), default=0)
        kept = [n for n in taught if encoder.fits(rows[n], longest, *task)]
        if left := len(targets) - len(kept):
            count = f"{left} of {len(targets)}"
            print(f"{label}: {count} are too long for the student, not measured", file=sys.stderr)
        if not kept:
            return None
        prompts = [encoder.prompt(rows[n], longest, *task) for n in kept]
        written = generate_answers(model, tokenizer, prompts, longest, dtype)
        scores = [
            f1(normalise(text).split(separator), targets[n][1])
            for n, text in zip(kept, written, strict=True)
        ]
        return {"f1": round(mean(scores), 6), "questions": len(scores)}

    result: dict[str, Any] = {}
    salient = {
        n: (", ".join(words), [normalise(word) for word in words])
        for n, row in enumerate(rows)
        if (words := row["saliency"])
    }
    if score := measure("key words", (SALIENCY, SALIENCY_TASK), salient, ", "):
        result["words"] = score
    for number, teacher in enumerate(teachers, start=1):
        rationales = {
            n: (rationale["text"], normalise(rationale["text"]).split())
            for n, row in enumerate(rows)
            for rationale in row["rationales"]
            if rationale["teacher"] == teacher
        }
        task = (teacher, rationale_task(number))
        if score := measure(f"rationales of {teacher}", task, rationales, None):
            result.setdefault("rationales", {})[teacher] = score
    return result
