"""Read the replies of OpenAI-compatible servers: a completion, or what the server complains about.

A reply is untrusted data. Nothing of it is returned before all of it that is used has been checked.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
)

from stages.distil.language.quality import CONTENT_FILTER, LENGTH, TOO_LONG
from stages.distil.language.thinking import join_thought
from stages.distil.teachers.backend import Completion, TokenCount

# What servers call the same reasons.
FINISH_REASONS = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": LENGTH,
    "model_length": LENGTH,
    "safety": CONTENT_FILTER,
    "recitation": CONTENT_FILTER,
    "blocklist": CONTENT_FILTER,
    "prohibited_content": CONTENT_FILTER,
    "refusal": CONTENT_FILTER,
}
UNUSABLE = ("error", "abort", TOO_LONG)  # the server failed, or uses this project's own word

# How servers say that a prompt is too long for the model: vLLM, OpenAI, llama.cpp, TGI, Gemini,
# Groq, Anthropic, Bedrock, SGLang, Ollama, Mistral, DashScope, TensorRT-LLM, Cohere, xAI. Other
# words are found out by a short prompt (`Client`). The patterns are bounded: the text is hostile.
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|exceed_context|longer than the (maximum|model)"
    r"|(prompt|input|request|sequence|payload|message|entity|content)s?( is| are)? too (long|large)"
    r"|maximum (model|sequence|input|prompt) length|max_model_len"
    r"|reduce the length|string_above_max_length"
    r"|(prompt|input|sequence) length[^.]{0,99} (exceed|should|must|maximum)"
    r"|exceed(s|ed)? [^.]{0,99}(token limit|max_num_tokens|max_seq_len)"
    r"|input token count|too many (input |prompt )?tokens"
    r"|exceeds the (maximum|limit)[^.]{0,99} tokens"
    r"|`?inputs`? (tokens|must have less than)",
    re.IGNORECASE,
)
_TOO_LARGE_FOR_THE_RATE = re.compile("request too large|input is too (long|large)", re.IGNORECASE)
_FILTERED = re.compile(
    r"content[ _]filter|content management policy|content policy|usage polic|flagged|moderation",
    re.IGNORECASE,
)
MOST_ITEMS = 1000  # choices of a reply, parts of a content
LONGEST_COMPLAINT = 2**16  # bytes of an error's body that are read
TOO_LONG_STATUSES = (200, 400, 413, 414, 422, 500)  # 200: OpenRouter's errors


class NotACompletionError(Exception):
    """The body of a reply with status 200 is not a completion; the message says why."""


def _characters(value: Any) -> Any:
    """Replace half a surrogate pair, of a character that the limit cut, by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


_Text = Annotated[str, Field(strict=True), BeforeValidator(_characters)]


class _ContentPart(BaseModel):
    """A part of a reply's content, or of a thought in it."""

    type: _Text = "text"
    text: _Text | None = None
    thinking: "_Text | _ContentParts | None" = None


_ContentParts = Annotated[list[_ContentPart], Field(max_length=MOST_ITEMS)]


class _Message(BaseModel):
    content: _Text | _ContentParts | None = None
    # Servers that take a thought out of the reply give it a field of its own.
    reasoning_content: Any = None
    reasoning: Any = None

    def as_text(self) -> str:
        """Return the reply; it begins with the thought, if there is one."""
        text = _joined(self.content)
        for thought in map(_characters, (self.reasoning_content, self.reasoning)):
            if isinstance(thought, str) and thought.strip():
                return join_thought(thought.strip(), text)
        return text


class _Choice(BaseModel):
    message: _Message | None = None
    text: _Text | None = None
    finish_reason: (
        Annotated[str, Field(strict=True), StringConstraints(pattern="^[ -~]{0,40}$")] | None
    ) = None


class _Usage(BaseModel):
    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None


class _CompletionBody(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1, max_length=MOST_ITEMS)]
    usage: _Usage | None = None


def read_completion(body: bytes, chat: bool) -> Completion:
    """Return the completion in a reply's body; raise `NotACompletionError` if there is none.

    A count that the server leaves out or gives as null is 0.
    """
    try:
        value = parse(body)
        reply = _CompletionBody.model_validate(value)
    except ValidationError as error:
        raise NotACompletionError(_message(value) or _first_mistake(error)) from None
    except json.JSONDecodeError as error:
        raise NotACompletionError(complaint(body) or f"not valid JSON: {error}") from None
    except UnicodeDecodeError:
        raise NotACompletionError("not UTF-8") from None
    except RecursionError:
        raise NotACompletionError("JSON that is nested too deeply") from None
    except ValueError:
        raise NotACompletionError("a number of too many digits") from None
    choice, usage = reply.choices[0], reply.usage or _Usage()
    finish_reason = (choice.finish_reason or "stop").lower()
    if finish_reason in UNUSABLE:
        raise NotACompletionError(f"finish_reason is {finish_reason!r}")
    if chat and choice.message is not None:
        text = choice.message.as_text()
    elif not chat and "text" in choice.model_fields_set:
        text = choice.text or ""
    else:
        raise NotACompletionError(f"choices.0.{'message' if chat else 'text'} is missing")
    return Completion(
        text=text,
        finish_reason=FINISH_REASONS.get(finish_reason, finish_reason),
        prompt_tokens=usage.prompt_tokens or 0,
        output_tokens=usage.completion_tokens or 0,
    )


def parse(body: bytes) -> Any:
    """Return the value of JSON bytes; raise ValueError or RecursionError for anything else."""
    return json.loads(body.decode("utf-8"))


def complaint(body: bytes) -> str:
    """Return what an error's body tells people, whatever its shape; empty if it tells nothing.

    No more than LONGEST_COMPLAINT bytes are read.
    """
    body = body[:LONGEST_COMPLAINT]
    try:
        return _message(parse(body))
    except (ValueError, RecursionError):
        return re.sub("<[^<>]*>", " ", body.decode("utf-8", "replace")).strip()


def whole_complaint(body: bytes) -> str:
    """Return all keys and values of an error's body as one text, to search for a kind of error.

    No more than LONGEST_COMPLAINT bytes are read.
    """
    body = body[:LONGEST_COMPLAINT]
    try:
        return " ".join(_words(parse(body)))
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def says_too_long(status: int, text: str) -> bool:
    """Return whether an error says that a prompt exceeds what the model or the account can read.

    `text` is the error's `whole_complaint`.
    """
    if status == 429:  # a single request that is larger than the limit of a minute
        return bool(_TOO_LARGE_FOR_THE_RATE.search(text))
    return status == 413 or (status in TOO_LONG_STATUSES and bool(_TOO_LONG.search(text)))


def says_filtered(status: int, text: str) -> bool:
    """Return whether an error says that a filter refused the prompt or its reply."""
    return status in (400, 403, 422) and bool(_FILTERED.search(text))


def named_parameter(text: str, sent: Iterable[str]) -> str | None:
    """Return the first of the parameters that were sent that an error names, None if none."""
    return next((name for name in sent if re.search(rf"\b{name}\b", text)), None)


def _joined(content: "str | list[_ContentPart] | None") -> str:
    """Return the text of a reply's content; thoughts among its parts come first."""
    if content is None or isinstance(content, str):
        return content or ""
    thoughts = [_joined(part.thinking) for part in content if part.type == "thinking"]
    reply = "".join(part.text or "" for part in content if part.type != "thinking")
    return join_thought("\n".join(thoughts), reply) if any(thoughts) else reply


def _first_mistake(error: ValidationError) -> str:
    """Return the first field that is wrong, without its value, which may be of any size."""
    mistake = error.errors(include_input=False, include_url=False, include_context=False)[0]
    message = re.sub(r" or instance of \w+", "", mistake["msg"])
    # Without the names of the alternatives that pydantic tried.
    parts = [part for part in mistake["loc"] if isinstance(part, int) or part.isidentifier()]
    place = ".".join(map(str, parts))
    return f"{place}: {message}" if place else message


def _message(value: Any, levels: int = 8) -> str:
    """Return the text for people in an error, which servers write in many shapes.

    No more than `levels` values inside each other are looked at.
    """
    if not levels:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return "; ".join(filter(None, (_message(item, levels - 1) for item in value[:3])))
    if not isinstance(value, dict):
        return ""
    for key in ("error", "message", "detail", "msg", "errors", "reason", "title"):
        if text := _message(value.get(key), levels - 1):
            loc = value.get("loc")
            parts = loc if isinstance(loc, list) else []
            place = ".".join(str(part) for part in parts if isinstance(part, str | int))
            return f"{place}: {text}" if place else text
    return ""


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _words(item)
    elif isinstance(value, list):
        for item in value:
            yield from _words(item)
    else:
        yield str(value)
