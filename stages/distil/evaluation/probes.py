"""Score options with the student, and compare its words and rationales with their targets."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.evaluation.statistics import f1
from stages.distil.language.answers import normalise
from stages.distil.language.student_prompts import SALIENCY_TASK, rationale_task
from stages.distil.models.batching import by_length
from stages.distil.student.answering import generate_answers, inference_tokens
from stages.distil.student.collator import Collator
from stages.distil.student.loss import autocast, task_sums
from stages.distil.student.samples import Encoder, Sample, count_targets


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
    `{"words": {"f1", "questions"}, "rationales": {teacher: {"f1", "questions"}}}`.
    """

    def generate(task: str, numbers: Iterable[int], targets: Iterable[str]) -> list[str]:
        longest = max(len(tokenizer.encode(f" {target}")) for target in targets)
        prompts = [encoder.prompt(rows[n], longest, task) for n in numbers]
        return generate_answers(model, tokenizer, prompts, longest, dtype)

    def measure(predicted: list[list[str]], targets: Iterable[list[str]]) -> dict[str, Any]:
        scores = [f1(words, target) for words, target in zip(predicted, targets, strict=True)]
        return {"f1": round(mean(scores), 6), "questions": len(scores)}

    result: dict[str, Any] = {}
    salient = {n: row["saliency"] for n, row in enumerate(rows) if row["saliency"]}
    if salient:
        generated = generate(SALIENCY_TASK, salient, map(", ".join, salient.values()))
        targets = [[normalise(word) for word in words] for words in salient.values()]
        result["words"] = measure([normalise(text).split(", ") for text in generated], targets)
    for number, teacher in enumerate(teachers, start=1):
        rationales = {
            n: text["text"]
            for n, row in enumerate(rows)
            for text in row["rationales"]
            if text["teacher"] == teacher
        }
        if rationales:
            generated = generate(rationale_task(number), rationales, rationales.values())
            predicted, targets = (
                [normalise(text).split() for text in texts]
                for texts in (generated, rationales.values())
            )
            result.setdefault("rationales", {})[teacher] = measure(predicted, targets)
    return result
