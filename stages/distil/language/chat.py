"""A conversation as one model reads it: in its chat template, or as plain text if it has none."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from stages.distil.interface.errors import UserError, tell_once
from stages.distil.language.control_tokens import ControlTokens, Quotes, Span
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
BLANK_LINE = "\n\n"  # ends the reply of a model without a chat template
PROBE = "zebra"  # a reply that no chat template contains


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation; at `quoted` it has texts of control tokens that are plain text."""

    text: str
    quoted: tuple[Span, ...] = ()


@dataclass(frozen=True)
class Ends:
    """What ends a reply besides the tokens that the model's settings declare."""

    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tokens or self.texts)

    def cut(self, text: str) -> str | None:
        """Return a text up to the first of `texts` in it, None if it has none."""
        stripped = text.strip()
        places = [stripped.find(end) for end in self.texts if end in stripped]
        return stripped[: min(places)] if places else None


class Chat:
    """A model's tokenizer with the settings of its chat template.

    Many templates refuse a system message or leave it out; the instruction then opens the first
    turn of the user.

    The text of a control token in a conversation, such as `<|im_end|>` in a question, is plain
    text. Of the tokens that a tokenizer adds around a text, a model without a chat template reads
    those before it, an encoder also those after it. A chat template writes them itself.
    """

    def __init__(
        self,
        name: str,
        tokenizer: "PreTrainedTokenizerBase",
        settings: Mapping[str, Any] | None = None,
        encoder_decoder: bool = False,
    ):
        """Take the model's name and tokenizer; `settings` are the template's own variables."""
        self.tokenizer = tokenizer
        self._name = name
        self._settings = dict(settings or {})
        self._encoder_decoder = encoder_decoder
        self._controls = ControlTokens(tokenizer)
        marks = "".join(mark for pair in MARKS for mark in pair)
        special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        self._hidden_marks = {number for number, token in special if token in marks}
        self.has_template = bool(tokenizer.chat_template)
        if self.has_template and "strftime_now" in str(tokenizer.chat_template):
            tell_once(
                f"{name}: its chat template may write today's date, so its texts would be "
                "generated again every day; chat_template_kwargs can set the date (for Llama 3: "
                "{date_string: ...})"
            )

    def prompt(self, conversation: Conversation) -> Rendered:
        """Return the conversation as the model reads it.

        Raises `UserError` if its chat template refuses it.
        """
        texts = conversation.text()
        quoted = self._controls.find(texts)
        if not self.has_template:
            return Rendered(texts, quoted)
        if not quoted:
            return Rendered(self._render(conversation))
        quotes = Quotes(self._controls, texts + str(self.tokenizer.chat_template))
        return Rendered(*quotes.show(self._render(conversation.with_texts(quotes.hide))))

    def render(self, conversation: Conversation) -> str:
        """Return the text of `prompt`."""
        return self.prompt(conversation).text

    def identify(self, conversation: Conversation, reply: str | None = None) -> str:
        """Return what determines the tokens of a prompt, and of a reply to it: the text of the key.

        It is the prompt's text, with the tokens where they are not those of the text alone.
        """
        prompt = self.prompt(conversation)
        plain = not prompt.quoted and not self._left_out_after
        if reply is not None:
            plain &= not (self._controls.find(reply) or self._joins or self._lead)
        if plain:
            return prompt.text
        tokens = self.tokens(prompt)[0]
        replied = [] if reply is None else self.encode_reply(conversation, reply)
        return json.dumps([prompt.text, tokens, *replied])

    def encode(self, conversation: Conversation) -> tuple[list[int], str]:
        """Return the token ids of a conversation, and what to put before the text that follows.

        That is the mark with which the chat template opens a thought, if it does.
        """
        prompt = self.prompt(conversation)
        return self.tokens(prompt)[0], opened_thought(prompt.text)

    def encode_reply(self, conversation: Conversation, reply: str) -> tuple[list[int], list[int]]:
        """Return the token ids of a conversation and of a reply to it, without a thought."""
        prompt = self.without_thought(conversation)
        tokens, _ = self.tokens(prompt)
        return tokens, self.reply_tokens(prompt, tokens, reply)

    def without_thought(self, conversation: Conversation) -> Rendered:
        """Return the prompt after which a reply follows; an opened thought is closed."""
        prompt = self.prompt(conversation)
        return Rendered(without_thought(prompt.text), prompt.quoted)

    def insert(self, prompt: Rendered, place: int, text: str) -> Rendered:
        """Return a prompt with a plain text before the character at `place`."""
        before = [span for span in prompt.quoted if span[0] < place]
        inside = [(a + place, b + place) for a, b in self._controls.find(text)]
        after = [(a + len(text), b + len(text)) for a, b in prompt.quoted if a >= place]
        whole = prompt.text[:place] + text + prompt.text[place:]
        return Rendered(whole, (*before, *inside, *after))

    def tokens(self, prompt: Rendered, offsets: bool = False) -> tuple[list[int], list[Span]]:
        """Return the token ids of a prompt and, with `offsets`, the characters of each."""
        add = not self.has_template
        if not prompt.quoted:
            encoded = self.tokenizer(
                prompt.text, add_special_tokens=add, return_offsets_mapping=offsets
            )
            end = len(encoded["input_ids"]) - self._left_out_after
            spans = encoded["offset_mapping"] if offsets else []
            return encoded["input_ids"][:end], spans[:end]
        tokens, spans = self._controls.encode(prompt.text, prompt.quoted)
        if not add:
            return tokens, spans
        before, after = self._controls.around
        after = after if self._encoder_decoder else []
        nowhere = (0, 0)
        spans = [*[nowhere] * len(before), *spans, *[nowhere] * len(after)]
        return [*before, *tokens, *after], spans

    def reply_tokens(self, prompt: Rendered, tokens: Sequence[int], reply: str) -> list[int]:
        """Return the tokens of a reply, as they follow a prompt's `tokens`.

        If there is no chat template, the reply continues the cue.
        """
        text = f"{self._lead}{reply}" if self.has_template else f" {reply}"
        if self._joins:
            whole, _ = self.tokens(self.insert(prompt, len(prompt.text), text))
            if whole[: len(tokens)] == list(tokens) and len(whole) > len(tokens):
                return whole[len(tokens) :]
        return self._controls.encode_plain(text)

    def ends(self, declared: Collection[int]) -> Ends:
        """Return what ends a reply, if its chat template ends a turn with no `declared` token."""
        if not self.has_template:
            return Ends(texts=(BLANK_LINE,))
        _, after = self._turn
        written = [self._controls.ids[after[a:b]] for a, b in self._controls.find(after)]
        if not set(written).isdisjoint(declared):
            return Ends()
        if not after.strip():
            return Ends()
        ends = Ends(tokens=(written[0],)) if written else Ends(texts=(after.strip(),))
        end = self.tokenizer.convert_ids_to_tokens(written[0]) if written else after.strip()
        known = sorted(map(str, self.tokenizer.convert_ids_to_tokens(sorted(declared))))
        tell_once(
            f"{self._name}: its chat template ends a turn with {end!r}, its generation settings "
            f"with {' or '.join(known) or 'nothing'}; a reply ends at the first of them"
        )
        return ends

    def _render(self, conversation: Conversation) -> str:
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
        tell_once(
            f"{self._name}: the instruction opens the user's first turn, since the chat template "
            f"{reason} as a system message"
        )
        return text

    def with_marks(self, text: str, tokens: Sequence[int]) -> str:
        """Return a generated text, decoded without special tokens, with the marks of a thought."""
        if self._hidden_marks.isdisjoint(tokens):
            return text
        special = set(self.tokenizer.all_special_ids) - self._hidden_marks
        return self.tokenizer.decode([token for token in tokens if token not in special])

    @cached_property
    def _left_out_after(self) -> int:
        """How many tokens the tokenizer adds after a text that goes on, which are left out."""
        goes_on = not (self.has_template or self._encoder_decoder)
        return len(self._controls.around[1]) if goes_on else 0

    @cached_property
    def _joins(self) -> bool:
        """Whether a reply's tokens depend on whether a text stands before it.

        So they do if the tokenizer puts a space before each text.
        """
        line, word, both = (self._controls.encode_plain(text) for text in ("\n", "a", "\na"))
        return not self._encoder_decoder and both != [*line, *word]

    @property
    def _lead(self) -> str:
        return self._turn[0]

    @cached_property
    def _turn(self) -> tuple[str, str]:
        """The space that the chat template writes before a reply, and what it writes after it."""
        asked = [{"role": "user", "content": "question"}]
        try:
            prompt = self._apply(asked)
            replied = [*asked, {"role": "assistant", "content": PROBE}]
            whole = self._apply(replied, add_generation_prompt=False)
        except TEMPLATE_ERRORS:
            return "", ""
        before, reply, after = whole.rpartition(PROBE)
        lead = before.removeprefix(prompt)
        return "" if lead.strip() else lead, after if reply else ""

    def _apply(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        with limited_rendering():
            return self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self._settings,
            )


def _left_out(messages: Messages, text: str) -> str:
    """Return the first message that is not in the rendered text, or ""."""
    contents = (message["content"].strip() for message in messages)
    return next((content for content in contents if content not in text), "")
