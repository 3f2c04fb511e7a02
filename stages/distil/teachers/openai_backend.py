"""A teacher behind an OpenAI-compatible server, such as `vllm serve`.

The openai client repeats a request that may succeed later (HTTP 408, 409, 429, 5xx, no connection,
a timeout) and waits as long as the server asks. This module also repeats a request whose response
is not a completion.
"""

import asyncio
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import openai
import tenacity

from stages.distil.interface.catalogue import ServerModel
from stages.distil.interface.errors import UserError
from stages.distil.language.thinking import join_thought
from stages.distil.teachers.backend import TOO_LONG, Completion, Request

FAILED_IN_A_ROW = 16  # consecutive failed requests after which the server is considered down


class _UnusableError(Exception):
    """The response is not a completion."""


class Server:
    """Send requests to a server, a bounded number concurrently.

    A request that keeps failing is skipped and the others continue; `complete` then ends with an
    error that counts the failures. A permanent refusal ends it immediately. The key is read from
    the environment and never shown.
    """

    def __init__(self, name: str, source: ServerModel):
        self._name = name
        self._source = source
        self._key = os.environ.get(source.key, "")
        self._limit = "max_completion_tokens" if source.max_completion_tokens else "max_tokens"

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes."""
        remaining = iter(requests)
        running: dict[asyncio.Task[Completion], Request] = {}  # in the order of their start
        failed = failed_in_a_row = completed = 0
        reason = ""
        with asyncio.Runner() as runner:  # its exit cancels requests in flight
            client = openai.AsyncOpenAI(
                base_url=self._source.url,
                api_key=self._key or "none",  # the header must not be empty
                timeout=self._source.timeout,
                max_retries=self._source.tries - 1,
            )
            while True:
                for request in remaining:
                    task = runner.get_loop().create_task(self._complete_one(client, request))
                    task.add_done_callback(lambda task: task.cancelled() or task.exception())
                    running[task] = request
                    if len(running) == self._source.in_flight:
                        break
                if not running:
                    break
                waiting = asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                finished, _ = runner.run(waiting)
                for task in [task for task in running if task in finished]:
                    request = running.pop(task)
                    try:
                        completion = task.result()
                    except (openai.OpenAIError, _UnusableError) as error:
                        failed, failed_in_a_row = failed + 1, failed_in_a_row + 1
                        reason = self._describe(error)
                        if failed_in_a_row == FAILED_IN_A_ROW:
                            raise self._failure_error(failed, completed, reason) from error
                        continue
                    completed, failed_in_a_row = completed + 1, 0
                    yield request, completion
            runner.run(client.close())
        if failed:
            raise self._failure_error(failed, completed, reason)

    def _failure_error(self, failed: int, completed: int, reason: str) -> UserError:
        return UserError(
            f"models.{self._name}: {failed} requests to {self._source.url} failed after "
            f"{self._source.tries} tries each, {completed} were completed and are kept; the "
            f"last failure: {reason}; run again to resume"
        )

    async def _complete_one(self, client: openai.AsyncOpenAI, request: Request) -> Completion:
        """Return the completion; it is TOO_LONG if the server rejects the prompt's length."""
        attempts = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._source.tries),
            wait=tenacity.wait_random_exponential(max=8),  # as in the client
            retry=tenacity.retry_if_exception_type(_UnusableError),
            reraise=True,
        )
        try:
            return await attempts(self._send, client, request)
        except openai.BadRequestError as error:
            if _is_too_long(error):
                return Completion("", TOO_LONG, 0, 0)
            raise self._permanent_error(error) from error
        except openai.APIStatusError as error:
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise
            raise self._permanent_error(error) from error

    async def _send(self, client: openai.AsyncOpenAI, request: Request) -> Completion:
        """Send a request; raise `_UnusableError` if the response is not a completion."""
        conversation = request.conversation
        settings: dict[str, Any] = {
            "model": self._source.model,
            self._limit: request.max_tokens,
            "temperature": request.temperature if self._source.temperature else openai.omit,
            "seed": request.seed if request.temperature else openai.omit,
        }
        response: Any = None
        try:
            if self._source.chat:
                messages: Any = conversation.messages()
                if template := self._source.chat_template_kwargs:
                    settings["extra_body"] = {"chat_template_kwargs": template}
                response = await client.chat.completions.create(messages=messages, **settings)
                message = response.choices[0].message
                text = _text(message.content)
                # Servers that take a thought out of the reply give it a field of its own.
                thought = getattr(message, "reasoning_content", None) or getattr(
                    message, "reasoning", None
                )
                if isinstance(thought, str) and thought.strip():
                    text = join_thought(thought.strip(), text)
            else:
                prompt = conversation.text()
                response = await client.completions.create(prompt=prompt, stop=["\n\n"], **settings)
                text = _text(response.choices[0].text)
            return Completion(
                text=text,
                finish_reason=response.choices[0].finish_reason or "stop",
                prompt_tokens=response.usage.prompt_tokens if response.usage else 0,
                output_tokens=response.usage.completion_tokens if response.usage else 0,
            )
        except (
            AttributeError,
            IndexError,
            TypeError,
            json.JSONDecodeError,
            openai.APIResponseValidationError,
        ) as error:
            reason = getattr(response, "error", None) or error
            raise _UnusableError(f"the response is not a completion ({reason})") from error

    def _permanent_error(self, error: openai.APIStatusError) -> UserError:
        key = self._source.key
        advice = {
            401: f"set the environment variable {key} to a key that the server accepts",
            403: f"the key in the environment variable {key} may not use this model",
            404: f"check that models.{self._name}.url ends as the server expects (often /v1) and "
            f"that it serves {self._source.model!r}",
        }.get(error.status_code, f"check the server's log and models.{self._name}")
        reason = self._describe(error)
        if "max_completion_tokens" in reason:
            limit = f"models.{self._name}.max_completion_tokens"
            advice = f"set {limit}, the limit of thought and reply together"
            if self._source.max_completion_tokens:
                advice = f"remove {limit}: the server's limit is max_tokens"
        elif "temperature" in reason:
            advice = f"set models.{self._name}.temperature to false: none is sent then"
        return UserError(f"models.{self._name}: {reason}; {advice}")

    def _describe(self, error: Exception) -> str:
        """Return an error's first line, without the key."""
        text = str(error)
        if isinstance(error, openai.APIStatusError):
            body = error.body if isinstance(error.body, dict) else {}
            text = f"HTTP {error.status_code} {body.get('message') or error.message}"
        elif isinstance(error, openai.APITimeoutError):
            text = f"no answer in {self._source.timeout:g} s"
        elif isinstance(error, openai.APIConnectionError):
            text = f"no connection to {self._source.url}"
        text = (text.strip() or type(error).__name__).splitlines()[0][:300]
        return text.replace(self._key, "***") if self._key else text


def _text(content: Any) -> str:
    """Return the text of a reply, which may be None, a text, or a list of parts with thoughts.

    Half a surrogate pair, of a character that the limit cut, becomes U+FFFD.
    """
    if isinstance(content, list):
        thoughts = [_text(p.get("thinking")) for p in content if p.get("type") == "thinking"]
        reply = "".join(_text(p.get("text")) for p in content if p.get("type") != "thinking")
        return join_thought("\n".join(thoughts), reply) if any(thoughts) else reply
    return (content or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_too_long(error: openai.APIStatusError) -> bool:
    text = f"{error.message} {error.body}".lower()
    return "context_length_exceeded" in text or "context length" in text or "too long" in text
