"""Score options with the student, and compare its words and rationales with their targets."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.evaluation.statistics import f1
from stages.distil.interface.method import SALIENCY
from stages.distil.language.answers import normalise
from stages.distil.language.student_prompts import SALIENCY_TASK, rationale_task
from stages.distil.models.batching import by_length
from stages.distil.student.answering import generate_answers, inference_tokens
from stages.distil.student.collator import Collator, count_targets
from stages.distil.student.loss import autocast, task_sums
from stages.distil.student.samples import Encoder, Sample


@torch.no_grad()
def option_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Sequence[Sample]],
    dtype: str,
) -> list[list[float]]:
    """Return the mean log-probability of the tokens of each option, question by question.

    `questions` are samples of `Encoder.options`; `dtype` is the precision.
    """
    all_samples: list[Sample] = []
    options: list[list[tuple[int, int]]] = []  # (question, option) of each sample's branches
    for number, samples in enumerate(questions):
        numbers = ((number, option) for option in range(sum(len(s.branches) for s in samples)))
        for sample in samples:
            all_samples.append(sample)
            options.append([next(numbers) for _ in sample.branches])
    scores: dict[tuple[int, int], float] = {}
    model.eval()
    for chosen in by_length([sample.length for sample in all_samples], inference_tokens(model)):
        in_batch = [option for n in chosen for option in options[n]]
        tasks = [str(option) for option in in_batch]  # one task per option gives one sum per option
        names = iter(tasks)
        renamed = [
            replace(sample, branches=[replace(b, task=next(names)) for b in sample.branches])
            for sample in (all_samples[n] for n in chosen)
        ]
        batch = Collator(model, tokenizer, tasks)(renamed)
        with autocast(dtype):
            on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
            sums = task_sums(model, on_device, len(tasks))
        means = -sums.cpu() / count_targets(renamed, tasks)
        scores |= dict(zip(in_batch, means.tolist(), strict=True))
    return [
        [scores[number, option] for option in range(sum(len(s.branches) for s in samples))]
        for number, samples in enumerate(questions)
    ]


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
