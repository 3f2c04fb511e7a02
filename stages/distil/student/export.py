"""The chat template and the generation settings that a trained student is saved with."""

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.interface.method import ANSWER, StudentPrompt
from stages.distil.language.control_tokens import added_tokens
from stages.distil.language.student_prompts import ANSWER_TASK, DEFAULT, text_before


def configure_inference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    prompt: StudentPrompt = DEFAULT,
) -> None:
    """Set the generation settings of a student and a chat template with its training prompt.

    The template takes the last message as a question with its options, as `question_text` writes
    them.
    """
    settings: dict[str, int] = {"max_new_tokens": max_tokens, "do_sample": False}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if (token := getattr(tokenizer, name)) is not None:
            settings[name] = token
    if model.config.is_encoder_decoder:
        settings["decoder_start_token_id"] = model.config.decoder_start_token_id
    else:
        before = text_before(ANSWER, prompt)
        question = f"{_start(tokenizer, before)}{before}{{{{ messages[-1].content }}}}"
        tokenizer.chat_template = f"{question}{ANSWER_TASK}"
    model.generation_config = GenerationConfig(**settings)


def _start(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the text of the tokens before every text, as a chat template must write it.

    `text` is what follows them.

    Some tokenizers put a space before a text, but not after a control token.
    """
    added, _ = added_tokens(tokenizer)
    start = "".join(tokenizer.convert_ids_to_tokens(added))
    alone, after = (tokenizer.encode(t, add_special_tokens=False) for t in (text, start + text))
    return start if after == [*added, *alone] else f"{start} "
