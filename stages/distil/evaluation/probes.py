"""What the student says of the options, and how near its words and reasons come to the teachers'.

Knows the student and its questions; knows nothing of how it was trained.
"""

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
from stages.distil.student.answering import answered_tokens, generate_answers
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

    `questions` are those of `Encoder.options`; `dtype` is the precision.
    """
    parts: list[Sample] = []
    places: list[list[tuple[int, int]]] = []  # of a part's branches: question and option
    for number, samples in enumerate(questions):
        options = ((number, option) for option in range(sum(len(s.branches) for s in samples)))
        for sample in samples:
            parts.append(sample)
            places.append([next(options) for _ in sample.branches])
    found: dict[tuple[int, int], float] = {}
    model.eval()
    for chosen in by_length([part.length for part in parts], answered_tokens(model)):
        here = [place for n in chosen for place in places[n]]
        tasks = [str(place) for place in here]  # each option is one, to have a sum of its own
        named = iter(tasks)
        asked = [
            replace(parts[n], branches=[replace(b, task=next(named)) for b in parts[n].branches])
            for n in chosen
        ]
        batch = Collator(model, tokenizer, tasks)(asked)
        with autocast(dtype):
            on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
            sums = task_sums(model, on_device, len(tasks))
        means = -sums.cpu() / count_targets(asked, tasks)
        found |= dict(zip(here, means.tolist(), strict=True))
    return [
        [found[number, option] for option in range(sum(len(s.branches) for s in samples))]
        for number, samples in enumerate(questions)
    ]


def explained(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    rows: Sequence[dict[str, Any]],
    teachers: Sequence[str],
    dtype: str,
) -> dict[str, Any]:
    """Ask the student for the salient words and the rationales of questions that it was taught.

    Returns the mean F1 of its words, and of the words of its rationales for each teacher that wrote
    any: `{"words": {"f1", "questions"}, "rationales": {teacher: ...}}`. `rows` are of `distill`.
    """

    def ask(task: str, wanted: dict[int, list[str]], texts: Iterable[str]) -> list[str]:
        longest = max(len(tokenizer.encode(f" {text}")) for text in texts)
        prompts = [encoder.prompt(rows[n], longest, task) for n in wanted]
        return generate_answers(model, tokenizer, prompts, longest, dtype)

    def measure(found: list[list[str]], wanted: dict[int, list[str]]) -> dict[str, Any]:
        each = [f1(a, b) for a, b in zip(found, wanted.values(), strict=True)]
        return {"f1": round(mean(each), 6), "questions": len(each)}

    result: dict[str, Any] = {}
    taught = {n: row["saliency"] for n, row in enumerate(rows) if row["saliency"]}
    if taught:
        said = ask(SALIENCY_TASK, taught, (", ".join(words) for words in taught.values()))
        words = {n: [normalise(word) for word in words] for n, words in taught.items()}
        result["words"] = measure([normalise(text).split(", ") for text in said], words)
    for number, teacher in enumerate(teachers, start=1):
        texts = {
            n: text["text"]
            for n, row in enumerate(rows)
            for text in row["rationales"]
            if text["teacher"] == teacher
        }
        if texts:
            wanted = {n: normalise(text).split() for n, text in texts.items()}
            said = ask(rationale_task(number), wanted, texts.values())
            found = [normalise(text).split() for text in said]
            result.setdefault("rationales", {})[teacher] = measure(found, wanted)
    return result
