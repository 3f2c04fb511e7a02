"""One interface for all teachers' backends: requests in, completions out as they finish.

A backend handles requests only, never questions, rationales or tables.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from stages.distil.language.quality import CONTENT_FILTER, LENGTH, TOO_LONG
from stages.distil.language.teacher_prompts import Conversation
from stages.distil.language.thinking import split_thought

TokenCount = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


@dataclass(frozen=True)
class Request:
    """A conversation to continue, and how; `seed` matters only at a temperature above 0.

    With a `reply`, that text is scored, and nothing is written.
    """

    conversation: Conversation
    max_tokens: int
    temperature: float = 0.0
    seed: int = 0
    reply: str | None = None

    def key(self, teacher: str, render: Callable[..., str] | None = None) -> bytes:
        """Return a digest of everything that determines the text.

        `teacher` is its `identity`; `render` returns the prompt that it reads (`Chat.identify`),
        None if only its server knows.
        """
        asked = (self.conversation,) if self.reply is None else (self.conversation, self.reply)
        values = {
            "conversation": render(*asked) if render else vars(self.conversation),
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed if self.temperature else None,
        }
        if self.reply is not None:
            values["reply"] = self.reply
        text = json.dumps([teacher, values], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@checked_dataclass(frozen=True, config=ConfigDict(strict=True))
class Completion:
    """A generated text; it begins with the teacher's thought, if it thinks (`split_thought`).

    Of a request with a reply nothing is written: `score` is the mean log-probability of the reply's
    tokens. Otherwise it is None.

    `finish_reason` is `stop`, LENGTH if the token limit cut the text off, CONTENT_FILTER if a
    server's filter did, or TOO_LONG if prompt and limit together exceed the teacher's context;
    then nothing was generated. Servers give others.

    Raises `pydantic.ValidationError` for a value of a wrong type.
    """

    text: str
    finish_reason: str
    prompt_tokens: TokenCount
    output_tokens: TokenCount
    score: float | None = None

    @property
    def lacks_reply(self) -> bool:
        """Whether there is no whole reply, for another reason than the token limit.

        A server's filter, refusal or overload is such a reason, and may be gone on another day.
        """
        is_cut = self.finish_reason == CONTENT_FILTER
        is_empty = self.score is None and not split_thought(self.text)[1].strip()
        return is_cut or (is_empty and self.finish_reason not in (LENGTH, TOO_LONG))


class Backend(Protocol):
    """What a teacher runs on; a server does not score replies, since OpenAI's protocol cannot."""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes.

        Requests are consumed lazily, so that memory holds only those in flight. Raises `UserError`
        for what the user can fix, after all requests that can still be completed.
        """
        ...
