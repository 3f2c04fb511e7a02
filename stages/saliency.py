"""Stage `saliency`: score every word of a train question by its influence on the answer."""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from stages.distil import tables
from stages.distil.attribution import METHOD, attribute, encode_prompt, load_teacher
from stages.distil.command import run_stage
from stages.distil.conversations import PromptFile
from stages.distil.examples import Example
from stages.distil.hardware import has_bfloat16
from stages.distil.models import model_folder
from stages.distil.parameters import Parameters
from stages.distil.prompts import question_spans, question_text
from stages.distil.words import word_scores


def saliency(parameters: Parameters) -> None:
    """Write the table of word scores, one row a train question."""
    tables.write_table(tables.SALIENCY, _scored(parameters, tables.read_examples("train")))


def _scored(parameters: Parameters, examples: list[Example]) -> Iterator[dict[str, Any]]:
    dtype = torch.bfloat16 if has_bfloat16() else torch.float32
    wording = PromptFile(parameters.rationales.prompts.answer)
    model, tokenizer = load_teacher(model_folder(parameters.saliency.teacher), dtype)
    prompts = [
        encode_prompt(
            tokenizer,
            wording.conversation(example).messages(),
            question_text(example.question, example.options),
            example.answer,
        )
        for example in examples
    ]
    scores: list[list[float]] = [[] for _ in prompts]
    progress = tqdm(total=len(prompts), desc="saliency", unit="row", file=sys.stderr)
    for index, row in attribute(model, prompts, tokenizer.pad_token_id or 0):
        scores[index] = row
        progress.update()
    progress.close()
    for example, prompt, row in zip(examples, prompts, scores, strict=True):
        text = question_text(example.question, example.options)
        spans = question_spans(example.question, example.options)
        words = word_scores(text, prompt.spans, row)
        kept = [w for w in words if any(a <= w["start"] and w["end"] <= b for a, b in spans)]
        yield {"id": example.id, "text": text, "words": kept, "method": METHOD}


if __name__ == "__main__":
    run_stage(saliency, __doc__)
