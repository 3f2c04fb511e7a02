"""The chat template and the generation settings that a trained student is saved with."""

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.interface.method import ANSWER, REASONING, Student
from stages.distil.language.control_tokens import added_tokens
from stages.distil.language.student_prompts import ANSWER_TASK, REASONING_TASK, text_before


def configure_inference(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Student, max_tokens: int
) -> None:
    """Set the generation settings of a student and a chat template with its training prompt.

    The template takes the last message as a question with its options, as `question_text` writes
    them. A student that has learnt to reason does so, unless the template's variable
    `enable_thinking` is false and it has learnt to answer directly too. `max_tokens` is the most
    that it writes.
    """
    generation: dict[str, int] = {"max_new_tokens": max_tokens, "do_sample": False}
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if (token := getattr(tokenizer, name)) is not None:
            generation[name] = token
    if model.config.is_encoder_decoder:
        generation["decoder_start_token_id"] = model.config.decoder_start_token_id
    else:
        tokenizer.chat_template = _template(tokenizer, settings)
    model.generation_config = GenerationConfig(**generation)


def _template(tokenizer: PreTrainedTokenizerBase, settings: Student) -> str:
    """Return the chat template of a decoder-only student."""

    def asking(task: str, prefix: str) -> str:
        before = text_before(task, settings.prompt)
        return f"{_start(tokenizer, before)}{before}{{{{ messages[-1].content }}}}{prefix}"

    if not settings.reasons:
        return asking(ANSWER, ANSWER_TASK)
    reasoned = asking(REASONING, REASONING_TASK)
    if not settings.direct:
        return reasoned
    direct = asking(ANSWER, ANSWER_TASK)
    asked = "enable_thinking is defined and not enable_thinking"
    return f"{{% if {asked} %}}{direct}{{% else %}}{reasoned}{{% endif %}}"


def _start(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return the text of the tokens before every text, as a chat template must write it.

    `text` is what follows them.

    Some tokenizers put a space before a text, but not after a control token.
    """
    added, _ = added_tokens(tokenizer)
    start = "".join(tokenizer.convert_ids_to_tokens(added))
    alone, after = (tokenizer.encode(t, add_special_tokens=False) for t in (text, start + text))
    return start if after == [*added, *alone] else f"{start} "
