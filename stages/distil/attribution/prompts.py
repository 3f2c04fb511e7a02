"""What a teacher reads, as token ids, and the word that each token belongs to."""

from dataclasses import dataclass

from stages.distil.interface.errors import UserError
from stages.distil.interface.method import WordsOf
from stages.distil.language.chat import Chat
from stages.distil.language.student_prompts import question_spans, question_text
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.language.words import find_words, owners
from stages.distil.storage.examples import Example


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt and of its label; token `tokens[i]` belongs to word `words[i]`.

    Words are numbered from 0 in the order of the prompt; `spans` holds the characters of each in
    `scored_text`.
    """

    ids: list[int]
    label: list[int]
    tokens: list[int]
    words: list[int]
    spans: list[tuple[int, int]]

    @property
    def count(self) -> int:
        """The number of words."""
        return len(self.spans)


def scored_text(example: Example, rationale: str = "") -> str:
    """Return the question with its options and, if there is one, a rationale on the next line."""
    text = question_text(example.question, example.options)
    return f"{text}\n{rationale}" if rationale else text


def encode_prompt(
    chat: Chat,
    conversation: Conversation,
    example: Example,
    label: str,
    rationale: str = "",
    of: WordsOf = "question",
) -> Prompt:
    """Encode a conversation that ends with a question and asks for `label`.

    The rationale follows the question's options. Only the words of question and options, of the
    rationale, or of `both` are scored. Raises `UserError` if the conversation does not contain the
    question in the form of `question_text`.
    """
    text = scored_text(example)
    rendered = chat.without_thought(conversation)
    start = rendered.text.rfind(text)
    if start < 0:
        raise UserError(
            "rationales.prompts.answer: expected the question and, on a line after it, "
            f"{{{{ listed_options }}}}, which is {text[len(example.question) :].strip()!r}; found "
            f"{conversation.user!r}"
        )
    if rationale:
        rendered = chat.insert(rendered, start + len(text), f"\n{rationale}")
        text = scored_text(example, rationale)
    parts = question_spans(example.question, example.options) if of != "rationale" else []
    if of != "question":
        parts.append((len(text) - len(rationale), len(text)))
    ids, offsets = chat.tokens(rendered, offsets=True)
    spans = [(a - start, b - start) for a, b in offsets]
    words = find_words(text, parts, spans)
    scored = [(i, word) for i, word in enumerate(owners(words, spans)) if word is not None]
    return Prompt(
        ids=ids,
        label=chat.reply_tokens(rendered, ids, label),
        tokens=[i for i, _ in scored],
        words=[word for _, word in scored],
        spans=words,
    )
