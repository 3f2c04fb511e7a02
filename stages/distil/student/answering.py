"""The student's greedy answers."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.models.greedy import continue_greedily
from stages.distil.models.hardware import pass_tokens
from stages.distil.student.loss import autocast
from stages.distil.student.samples import Sample

ANSWERED_TOKENS = 8192  # of a batch of questions that are answered together, on a CPU


def answered_tokens(model: PreTrainedModel) -> int:
    """Return the tokens of a pass without gradients."""
    return pass_tokens("auto", ANSWERED_TOKENS, model, weight_bytes=0)


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sample],
    max_tokens: int,
    dtype: str,
) -> list[str]:
    """Return the student's greedy text for each of `Encoder.prompt`, in their order.

    `dtype` is the precision, `bfloat16` or `float32`.
    """
    two_parts = model.config.is_encoder_decoder
    begun = prompts[0].branches[0].prefix if two_parts and prompts else []
    ids = [p.context if two_parts else p.context + p.branches[0].prefix for p in prompts]
    training = model.training
    model.eval()
    with autocast(dtype):
        written = continue_greedily(
            model,
            ids,
            max_tokens,
            tokenizer.pad_token_id or 0,
            answered_tokens(model),
            begun,
            tokenizer.eos_token_id,
        )
    model.train(training)
    return [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in written]
