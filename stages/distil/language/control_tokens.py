"""Texts with control tokens: those that a chat template writes, and those that are plain text.

A question may quote `<|im_end|>` or `</s>`. A model must read that as the characters it is, while
the same text, written by the chat template, is one control token.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from stages.distil.interface.errors import UserError

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # the first character and the one after the last
NEVER = "(?!)"  # a pattern without a match
# Characters without a meaning of their own (Unicode's private use planes). Those of the first plane
# stand for quoted control tokens while a template is rendered, those of the second for the
# template's while a text is encoded.
QUOTED = range(0xF0000, 0xFFFFE)
MARKS = range(0x100000, 0x10FFFE)


class ControlTokens:
    """The control tokens of a tokenizer, and encoding texts that quote them."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self.ids = {token.content: number for number, token in added if token.special}
        longest_first = sorted(filter(None, self.ids), key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or NEVER)
        self._readers: dict[tuple[str, ...], tuple[Any, dict[int, int]]] = {}  # by their marks

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer adds before and after every text."""
        return added_tokens(self._tokenizer)

    def find(self, text: str) -> tuple[Span, ...]:
        """Return where a text has the text of a control token."""
        return tuple(match.span() for match in self._pattern.finditer(text))

    def encode_plain(self, text: str) -> list[int]:
        """Return the tokens of a text that holds no control tokens, only quotes them."""
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return [piece for token in encoded["input_ids"] for piece, _ in self._spell(token, (0, 0))]

    def encode(self, text: str, quoted: Sequence[Span]) -> tuple[list[int], list[Span]]:
        """Return the tokens and their characters; control tokens at `quoted` are plain text.

        Nothing is added around the text. Raises `UserError` if the tokenizer cannot do it.
        """
        if not self._tokenizer.is_fast:
            raise UserError(
                f"a text has the control token {text[slice(*quoted[0])]!r}, which the tokenizer "
                "can read as text only in its fast form (tokenizer.json); leave the text out"
            )
        marks = dict(zip(self.ids, _unused(MARKS, text, len(self.ids)), strict=True))
        # A mark is as long as its token, so that the characters stay in their places.
        marks = {token: mark * len(token) for token, mark in marks.items()}
        skipped = set(quoted)
        marked = self._pattern.sub(
            lambda match: match[0] if match.span() in skipped else marks[match[0]], text
        )
        reader, numbers = self._reader(marks)
        encoded = reader.encode(marked, add_special_tokens=False)
        pieces: list[tuple[int, Span]] = []
        for token, span in zip(encoded.ids, encoded.offsets, strict=True):
            if token in numbers:
                pieces.append((numbers[token], span))
            else:
                pieces += self._spell(token, span)
        return [token for token, _ in pieces], [span for _, span in pieces]

    def _reader(self, marks: dict[str, str]) -> tuple[Any, dict[int, int]]:
        """Return a tokenizer that reads each mark as a token, and the control token it stands for.

        Control tokens themselves are plain text to it.
        """
        from tokenizers import AddedToken, Tokenizer

        if stored := self._readers.get(tuple(marks.values())):
            return stored
        reader: Any = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        reader.no_truncation()
        reader.no_padding()
        reader.encode_special_tokens = True  # that is, as plain text; a mark is not special
        known = self._tokenizer.added_tokens_decoder
        numbers = {}
        for token, mark in marks.items():
            own = known[self.ids[token]]
            added = AddedToken(mark, lstrip=own.lstrip, rstrip=own.rstrip, normalized=False)
            reader.add_tokens([added])
            numbers[reader.token_to_id(mark)] = self.ids[token]
        self._readers[tuple(marks.values())] = reader, numbers
        return reader, numbers

    def _spell(self, token: int, span: Span) -> list[tuple[int, Span]]:
        """Return a token and its characters; a control token becomes one token per character.

        The vocabulary of a Unigram tokenizer, such as T5's, has `</s>` as a piece of plain text.
        """
        if token not in self._by_id or token == self._tokenizer.unk_token_id:
            return [(token, span)]
        characters = list(self._by_id[token])
        start = span[0]
        return [
            (number, (start + n, start + n + 1) if span[1] else span)
            for n, number in enumerate(self._tokenizer.convert_tokens_to_ids(characters))
        ]

    @cached_property
    def _by_id(self) -> dict[int, str]:
        return {number: token for token, number in self.ids.items()}


class Quotes:
    """Stands in for the control tokens that texts quote, while a template is rendered.

    A stand-in is as long as its token.
    """

    def __init__(self, controls: ControlTokens, texts: str):
        self._pattern = controls._pattern
        tokens = sorted({match[0] for match in self._pattern.finditer(texts)})
        characters = dict(zip(tokens, _unused(QUOTED, texts, len(tokens)), strict=True))
        self._hidden = {token: mark * len(token) for token, mark in characters.items()}
        self._shown = {hidden: token for token, hidden in self._hidden.items()}

    def hide(self, text: str) -> str:
        """Return a text with its stand-ins."""
        return self._pattern.sub(lambda match: self._hidden[match[0]], text)

    def show(self, text: str) -> tuple[str, tuple[Span, ...]]:
        """Return a rendered text with the tokens that it quotes, and where it does."""
        hidden = re.compile("|".join(map(re.escape, self._shown)) or NEVER)
        quoted = tuple(match.span() for match in hidden.finditer(text))
        return hidden.sub(lambda match: self._shown[match[0]], text), quoted


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Return the tokens that a tokenizer adds before and after every text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    tokens, added = encoded["input_ids"], encoded["special_tokens_mask"]
    start = added.index(0)
    return tokens[:start], tokens[start + added.count(0) :]


def _unused(characters: range, text: str, count: int) -> list[str]:
    """Return characters that a text does not have."""
    present = set(text)
    free = (chr(number) for number in characters if chr(number) not in present)
    return [character for character, _ in zip(free, range(count), strict=False)]
