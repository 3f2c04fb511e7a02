"""A teacher behind an OpenAI-compatible server, such as `vllm serve`.

Knows the protocol and its faults; knows nothing of questions or of rationales.
"""

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import openai
import tenacity

from stages.distil.errors import UserError
from stages.distil.parameters import ServerModel
from stages.distil.teachers import TOO_LONG, Completion, Request

FIRST_WAIT = 1.0  # seconds before a failed request is tried again; doubles each time
LONGEST_WAIT = 60.0
TOLD_FROM = 10.0  # seconds of a pause
PASSING = (408, 409, 425, 429)  # and 5xx: try again; any other 4xx stays as it is
FAILED_IN_A_ROW = 16  # requests given up one after the other: the server is gone


class _UnusableError(Exception):
    """The server answered, but not with a completion."""


class Server:
    """Send requests to a server, a bounded number at once, and try again what may pass.

    A request that keeps failing is set aside; the others go on, and `complete` ends with an error
    that counts what failed. A refusal that no repetition mends ends it at once. The key is read
    from the environment and never shown.
    """

    def __init__(self, name: str, source: ServerModel):
        self._name = name
        self._source = source
        self._key = os.environ.get(source.key, "")
        # The header must not be empty; servers that want no key ignore it.
        self._client = openai.OpenAI(
            base_url=source.url,
            api_key=self._key or "none",
            timeout=source.timeout,
            max_retries=0,  # trying again is done here, malformed answers included
        )
        self._leaving = threading.Event()
        self._speaking = threading.Lock()
        self._said = ""

    def complete(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Completion]]:
        """Yield each request with its completion as it finishes."""
        coming = iter(requests)
        in_flight = self._source.in_flight
        running: dict[Future[Completion], Request] = {}
        failed = in_a_row = done = 0
        reason = ""
        pool = ThreadPoolExecutor(in_flight)
        try:
            while True:
                while len(running) < in_flight and (request := next(coming, None)) is not None:
                    running[pool.submit(self._try, request)] = request
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    request = running.pop(future)
                    try:
                        completion = future.result()
                    except (openai.OpenAIError, _UnusableError) as error:
                        failed, in_a_row = failed + 1, in_a_row + 1
                        reason = self._describe(error)
                        if in_a_row == FAILED_IN_A_ROW:
                            raise self._gave_up(failed, done, reason) from error
                        continue
                    done, in_a_row = done + 1, 0
                    yield request, completion
        finally:
            self._leaving.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if failed:
            raise self._gave_up(failed, done, reason)

    def _gave_up(self, failed: int, done: int, reason: str) -> UserError:
        return UserError(
            f"models.{self._name}: {failed} requests to {self._source.url} failed after "
            f"{self._source.tries} tries each, {done} were completed and are kept; the last: "
            f"{reason}; run again to go on"
        )

    def _try(self, request: Request) -> Completion:
        """Send a request until it is answered or the tries are used up."""
        attempts = tenacity.Retrying(
            stop=tenacity.stop_any(
                tenacity.stop_after_attempt(self._source.tries),
                tenacity.stop_when_event_set(self._leaving),
            ),
            wait=_pause,
            sleep=tenacity.sleep_using_event(self._leaving),
            retry=tenacity.retry_if_exception(_may_pass),
            before_sleep=self._say,
            reraise=True,
        )
        try:
            return attempts(self._send, request)
        except openai.APIStatusError as error:
            if _may_pass(error):
                raise
            if error.status_code == 400 and _says_too_long(error):
                return Completion("", TOO_LONG, 0, 0)
            raise self._refused(error) from error

    def _say(self, state: tenacity.RetryCallState) -> None:
        """Tell of a long pause, once for all the requests that make it."""
        error = state.outcome.exception() if state.outcome else None
        pause = state.next_action.sleep if state.next_action else 0
        if not isinstance(error, Exception) or pause < TOLD_FROM:
            return
        news = f"models.{self._name}: {self._describe(error)}"
        with self._speaking:
            if news != self._said:
                self._said = news
                print(f"{news}; trying again in {pause:.0f} s", file=sys.stderr)

    def _send(self, request: Request) -> Completion:
        """Send a request once; raise `_UnusableError` where the answer is no completion."""
        conversation = request.conversation
        settings: dict[str, Any] = {
            "model": self._source.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed if request.temperature else openai.omit,
        }
        try:
            answer: Any
            if self._source.chat:
                messages: Any = conversation.messages()
                answer = self._client.chat.completions.create(messages=messages, **settings)
                text = answer.choices[0].message.content
            else:
                prompt = conversation.text()
                answer = self._client.completions.create(prompt=prompt, stop=["\n\n"], **settings)
                text = answer.choices[0].text
            return Completion(
                text=text or "",
                finish_reason=answer.choices[0].finish_reason or "stop",
                prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
                output_tokens=answer.usage.completion_tokens if answer.usage else 0,
            )
        except (AttributeError, IndexError, TypeError, json.JSONDecodeError) as error:
            raise _UnusableError(f"not the JSON of a completion ({error})") from error

    def _refused(self, error: openai.APIStatusError) -> UserError:
        key = self._source.key
        advice = {
            401: f"set the environment variable {key} to a key that the server takes",
            403: f"the key in the environment variable {key} may not use this model",
            404: f"see that models.{self._name}.url ends as the server's does (often /v1) and that "
            f"it serves {self._source.model!r}",
        }.get(error.status_code, f"see the server's log and models.{self._name}")
        return UserError(f"models.{self._name}: {self._describe(error)}; {advice}")

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


def _may_pass(error: BaseException) -> bool:
    """Return whether the same request may succeed later."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in PASSING or error.status_code >= 500
    return isinstance(
        error, openai.APIConnectionError | openai.APIResponseValidationError | _UnusableError
    )


def _says_too_long(error: openai.APIStatusError) -> bool:
    text = f"{error.message} {error.body}".lower()
    return "context_length_exceeded" in text or "context length" in text or "too long" in text


def _pause(state: tenacity.RetryCallState) -> float:
    """Return the seconds to wait: what the server asks for, else twice as long each time."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, openai.APIStatusError):
        asked = _seconds(error.response.headers.get("retry-after"))
        if asked is not None:
            return asked
    growing = tenacity.wait_exponential_jitter(FIRST_WAIT, LONGEST_WAIT, jitter=FIRST_WAIT)
    return growing(state)


def _seconds(header: str | None) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
