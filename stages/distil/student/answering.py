"""The student's greedy answers."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.language.answers import is_correct
from stages.distil.models.batching import in_parts
from stages.distil.models.generation import continue_greedily
from stages.distil.models.hardware import pass_tokens
from stages.distil.student.loss import autocast
from stages.distil.student.samples import Sample

INFERENCE_TOKENS = 8192  # of a pass without gradients, on a CPU
PART = 16_384  # questions that are answered, and held, at once; batches are formed within a part


def inference_tokens(model: PreTrainedModel) -> int:
    """Return the token budget of a pass without gradients."""
    return pass_tokens("auto", INFERENCE_TOKENS, model, weight_bytes=0)


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sample],
    max_tokens: int,
    dtype: str,
) -> list[str]:
    """Return the student's greedy text for each prompt of `Encoder.prompt`, in their order.

    `dtype` is the precision, `bfloat16` or `float32`.
    """
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    groups: dict[tuple[int, ...], list[int]] = {}  # an encoder-decoder's text begins with a prefix
    for number, prompt in enumerate(prompts):
        prefix = prompt.branches[0].prefix if model.config.is_encoder_decoder else []
        groups.setdefault(tuple(prefix), []).append(number)
    texts: list[list[int]] = [[] for _ in prompts]
    training = model.training
    model.eval()
    for start, numbers in groups.items():
        ids = [
            p.context if model.config.is_encoder_decoder else p.context + p.branches[0].prefix
            for p in (prompts[number] for number in numbers)
        ]
        with autocast(dtype):
            written = continue_greedily(
                model,
                ids,
                max_tokens,
                padding,
                inference_tokens(model),
                start,
                tokenizer.eos_token_id,
            )
        for number, tokens in zip(numbers, written, strict=True):
            texts[number] = tokens
    model.train(training)
    return decode(tokenizer, texts)


def count_correct(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sample],
    questions: Sequence[dict[str, Any]],
    numbers: range,
    max_tokens: int,
    dtype: str,
) -> int:
    """Return how many questions of these numbers the student answers correctly, by its text.

    `questions` are rows with `options` and `answer`, and `prompts` their prompts. Memory holds PART
    of them.
    """
    correct = 0
    for part in in_parts(numbers, PART):
        texts = generate_answers(model, tokenizer, [prompts[n] for n in part], max_tokens, dtype)
        correct += sum(is_correct(text, questions[n]) for n, text in zip(part, texts, strict=True))
    return correct


def decode(tokenizer: PreTrainedTokenizerBase, texts: list[list[int]]) -> list[str]:
    """Return the texts of tokens that the student wrote, without control tokens."""
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in texts]
