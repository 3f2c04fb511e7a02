"""How the trained student is asked: its chat template and its generation settings.

Knows tokenizers and models; knows nothing of training.
"""

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.language.student_prompts import ANSWER_TASK, student_context


def make_usable(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> None:
    """Give a student the generation settings and the chat template that it was taught with.

    The template takes the last message as a question with its options.
    """
    settings: dict[str, int] = {"max_new_tokens": max_tokens, "do_sample": False}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if (token := getattr(tokenizer, name)) is not None:
            settings[name] = token
    if model.config.is_encoder_decoder:
        settings["decoder_start_token_id"] = model.config.decoder_start_token_id
    else:
        begin = tokenizer.decode(tokenizer.encode(""))  # what the tokenizer puts before a text
        question = student_context("{{ messages[-1].content }}", [])
        tokenizer.chat_template = f"{begin}{question}{ANSWER_TASK}"
    model.generation_config = GenerationConfig(**settings)
