"""A conversation as one model reads it: in its chat template, or as plain text if it has none."""

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from stages.distil.interface.errors import UserError
from stages.distil.interface.escaping import for_terminal
from stages.distil.language.rendering import limited_rendering
from stages.distil.language.teacher_prompts import Conversation, Messages
from stages.distil.language.thinking import MARKS, opened_thought, without_thought

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

PYTHON_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
TEMPLATE_ERRORS = (TemplateError, *PYTHON_ERRORS)


class Chat:
    """A model's tokenizer with the settings of its chat template.

    Many templates refuse a system message or leave it out; the instruction then opens the first
    turn of the user.
    """

    def __init__(
        self,
        name: str,
        tokenizer: "PreTrainedTokenizerBase",
        settings: Mapping[str, Any] | None = None,
    ):
        """Take the model's name and tokenizer; `settings` are the template's own variables."""
        self.tokenizer = tokenizer
        self._name = name
        self._settings = dict(settings or {})
        marks = "".join(mark for pair in MARKS for mark in pair)
        special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        self._hidden_marks = {number for number, token in special if token in marks}
        self.has_template = bool(tokenizer.chat_template)
        if self.has_template and "strftime_now" in str(tokenizer.chat_template):
            _tell_once(
                f"{name}: its chat template may write today's date, so its texts would be "
                "generated again every day; chat_template_kwargs can set the date (for Llama 3: "
                "{date_string: ...})"
            )

    def render(self, conversation: Conversation) -> str:
        """Return the conversation as the model reads it.

        Raises `UserError` if its chat template refuses it.
        """
        if not self.has_template:
            return conversation.text()
        try:
            messages = conversation.messages()
            text = self._apply(messages)
            left_out = _left_out(messages, text)
            if not left_out:
                return text
            reason = "leaves it out"
        except TEMPLATE_ERRORS as error:
            reason = f"refuses it ({error})"
        advice = f"see models.{self._name}.chat_template_kwargs, or choose another model"
        try:
            messages = conversation.messages(system_role=False)
            text = self._apply(messages)
        except TEMPLATE_ERRORS as error:
            raise UserError(
                f"models.{self._name}: its chat template refuses the conversation ({error}); "
                f"{advice}"
            ) from error
        if left_out := _left_out(messages, text):
            raise UserError(
                f"models.{self._name}: its chat template leaves out or changes a message "
                f"({left_out[:60]!r}); {advice}"
            )
        _tell_once(
            f"{self._name}: the instruction opens the user's first turn, since the chat template "
            f"{reason} as a system message"
        )
        return text

    def encode(self, conversation: Conversation) -> tuple[list[int], str]:
        """Return the token ids of a conversation, and what to put before the text that follows.

        That is the mark with which the chat template opens a thought, if it does. A chat template
        writes the special tokens itself.
        """
        prompt = self.render(conversation)
        tokens = self.tokenizer.encode(prompt, add_special_tokens=not self.has_template)
        return tokens, opened_thought(prompt)

    def encode_reply(self, conversation: Conversation, reply: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a conversation and of a reply to it, without a thought.

        If there is no chat template, the reply continues the cue.
        """
        prompt = without_thought(self.render(conversation))
        tokens = self.tokenizer.encode(prompt, add_special_tokens=not self.has_template)
        text = reply if self.has_template else f" {reply}"
        return tokens, self.tokenizer.encode(text, add_special_tokens=False)

    def with_marks(self, text: str, tokens: Sequence[int]) -> str:
        """Return a generated text, decoded without special tokens, with the marks of a thought."""
        if self._hidden_marks.isdisjoint(tokens):
            return text
        special = set(self.tokenizer.all_special_ids) - self._hidden_marks
        return self.tokenizer.decode([token for token in tokens if token not in special])

    def _apply(self, messages: Messages) -> str:
        with limited_rendering():
            return self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self._settings
            )


def _left_out(messages: Messages, text: str) -> str:
    """Return the first message that is not in the rendered text, or ""."""
    contents = (message["content"].strip() for message in messages)
    return next((content for content in contents if content not in text), "")


@cache
def _tell_once(line: str) -> None:
    print(for_terminal(line), file=sys.stderr)
