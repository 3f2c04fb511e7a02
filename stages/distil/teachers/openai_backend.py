"""A teacher behind an OpenAI-compatible server, such as `vllm serve`.

The openai client repeats a request that may succeed later (HTTP 408, 409, 429, 5xx, no connection,
a timeout) and waits as long as the server asks. This module also repeats a request whose response
is not a completion.
"""

import asyncio
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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


@dataclass
class _Connection:
    """One of a teacher's servers, and how it does."""

    url: str
    client: openai.AsyncOpenAI
    running: int = 0
    failed_in_a_row: int = 0


@dataclass(frozen=True)
class _Job:
    """A request, and the servers on which it has failed."""

    request: Request
    failed_on: frozenset[str] = frozenset()

    def choose(self, connections: list[_Connection]) -> list[_Connection]:
        """Return the servers that may still try the request, the least busy one first."""
        possible = [c for c in connections if c.url not in self.failed_on]
        return sorted(possible, key=lambda connection: connection.running)


class Server:
    """Send requests to one or several servers, a bounded number to each concurrently.

    A request that keeps failing is handed to another server. If it has failed on all, it is skipped
    and the others continue; `complete` then ends with an error that counts the failures. A server
    with FAILED_IN_A_ROW failures gets no more requests; without another server, that ends the run,
    as a permanent refusal does at once. The key is read from the environment and never shown.
    """

    def __init__(self, name: str, source: ServerModel):
        self._name = name
        self._source = source
        self._urls = [source.url] if isinstance(source.url, str) else source.url
        self._key = os.environ.get(source.key, "")
        self._limit = "max_completion_tokens" if source.max_completion_tokens else "max_tokens"

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes."""
        remaining = map(_Job, requests)
        waiting: deque[_Job] = deque()  # failed on a server
        running: dict[asyncio.Task[Completion], tuple[_Job, _Connection]] = {}  # oldest first
        failed = completed = 0
        reason = ""
        with asyncio.Runner() as runner:  # its exit cancels requests in flight
            connections = [_Connection(url, self._client(url)) for url in self._urls]
            clients = [connection.client for connection in connections]
            while True:
                while any(c.running < self._source.in_flight for c in connections):
                    job = waiting.popleft() if waiting else next(remaining, None)
                    if job is None:
                        break
                    possible = job.choose(connections)
                    if not possible:
                        failed += 1
                        continue
                    if possible[0].running == self._source.in_flight:
                        waiting.appendleft(job)
                        break
                    connection = possible[0]
                    coroutine = self._complete_one(connection.client, job.request)
                    task = runner.get_loop().create_task(coroutine)
                    task.add_done_callback(lambda task: task.cancelled() or task.exception())
                    running[task] = (job, connection)
                    connection.running += 1
                if not running:
                    break
                first = asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                finished, _ = runner.run(first)
                for task in [task for task in running if task in finished]:
                    job, connection = running.pop(task)
                    connection.running -= 1
                    try:
                        completion = task.result()
                    except (openai.OpenAIError, _UnusableError) as error:
                        reason = self._describe(error, connection.url)
                        connection.failed_in_a_row += 1
                        if connection.failed_in_a_row == FAILED_IN_A_ROW:
                            connections.remove(connection)
                            if not connections:
                                failed += 1 + len(waiting)
                                raise self._failure_error(failed, completed, reason) from error
                            print(
                                f"{self._name}: {connection.url} gets no more requests, "
                                f"{FAILED_IN_A_ROW} failed in a row: {reason}",
                                file=sys.stderr,
                            )
                        waiting.append(_Job(job.request, job.failed_on | {connection.url}))
                        continue
                    completed, connection.failed_in_a_row = completed + 1, 0
                    yield job.request, completion
            for client in clients:
                runner.run(client.close())
        if failed:
            raise self._failure_error(failed, completed, reason)

    def _client(self, url: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=url,
            api_key=self._key or "none",  # the header must not be empty
            timeout=self._source.timeout,
            max_retries=self._source.tries - 1,
        )

    def _failure_error(self, failed: int, completed: int, reason: str) -> UserError:
        count = f"{failed} request{'s' * (failed > 1)}"
        return UserError(
            f"models.{self._name}: {count} to {' and '.join(self._urls)} failed after "
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
            raise self._permanent_error(error, client) from error
        except openai.APIStatusError as error:
            if error.status_code in (408, 409, 429) or error.status_code >= 500:
                raise
            raise self._permanent_error(error, client) from error

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

    def _permanent_error(
        self, error: openai.APIStatusError, client: openai.AsyncOpenAI
    ) -> UserError:
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
        where = f"{client.base_url}: " if len(self._urls) > 1 else ""
        return UserError(f"models.{self._name}: {where}{reason}; {advice}")

    def _describe(self, error: Exception, url: str = "") -> str:
        """Return an error's first line, without the key."""
        text = str(error)
        if isinstance(error, openai.APIStatusError):
            body = error.body if isinstance(error.body, dict) else {}
            text = f"HTTP {error.status_code} {body.get('message') or error.message}"
        elif isinstance(error, openai.APITimeoutError):
            text = f"no answer in {self._source.timeout:g} s"
        elif isinstance(error, openai.APIConnectionError):
            text = f"no connection to {url}"
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
