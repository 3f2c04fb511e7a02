"""A client of one OpenAI-compatible server: what is sent, how often, and what a refusal means."""

import asyncio
import email.utils
import json
import random
import re
import sys
import time
from dataclasses import replace
from typing import Any

import httpx2

from stages.distil.interface.catalogue import ServerModel
from stages.distil.interface.errors import UserError
from stages.distil.language.quality import CONTENT_FILTER, TOO_LONG
from stages.distil.teachers import openai_replies as replies
from stages.distil.teachers.backend import Completion, Request
from stages.distil.teachers.openai_transport import FailedError, Transport
from stages.distil.teachers.pace import LONGEST_WAIT, Pace
from stages.distil.teachers.secret import Secret

MOST_REFUSALS_FOR_RATE = 20  # of one request
LONGEST_PAUSE = 8.0  # seconds between two tries at a request
TOLD_WAIT = 5.0  # seconds; a shorter wait is told only once
REFUSALS_PER_CHECK = 16  # of prompts, after which a short one is sent again
PERMANENT = (401, 402, 404, 405, 407, 410)  # whatever the prompt


class RateLimitedError(FailedError):
    """The server refused a request because it gets too many."""


class UnavailableError(FailedError):
    """The server is not to be asked again in this run."""


class RefusedError(Exception):
    """The server refused a request for good; the message says why.

    `advice` is what to do if it is not the prompt that it refuses.
    """

    def __init__(self, reason: str, advice: str):
        super().__init__(reason)
        self.advice = advice


class FilteredError(RefusedError):
    """A filter refused the prompt or its reply; or all prompts, as of a blocked account."""


class Client:
    """One server of a teacher."""

    def __init__(self, name: str, source: ServerModel, url: str, secret: Secret):
        """Take the teacher's name, its entry, the server's address and the key.

        Raises `UserError` if the address or the proxy for it cannot be used.
        """
        self.url = url
        path = "chat/completions" if source.chat else "completions"
        self._transport = Transport(name, url, path, source.timeout, secret)
        self._name = name
        self._source = source
        self._secret = secret
        self._pace = Pace(source.in_flight)
        self._limit = "max_completion_tokens" if source.max_completion_tokens else "max_tokens"
        self._checking = asyncio.Lock()
        self._accepted: dict[Request, int] = {}  # short requests, and how many checks each saves
        self._told = False  # of a limit of the rate
        self._told_refusal = False

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def complete(self, request: Request) -> Completion:
        """Return the completion, after as many tries as the teacher's entry allows.

        It is TOO_LONG, and nothing was written, if the server refuses this prompt but not a short
        one. Raises `FailedError` if all tries failed, `UnavailableError` if the server wants to
        be left alone for longer than LONGEST_WAIT, and `UserError` if it refuses all prompts.
        """
        failures = refusals_for_rate = 0
        while True:
            try:
                async with self._pace.turn() as turn:
                    completion = await self._try(request)
            except RateLimitedError as limited:
                self._wait(turn, limited)
                refusals_for_rate += 1
                if refusals_for_rate == MOST_REFUSALS_FOR_RATE:
                    raise FailedError(f"{refusals_for_rate} times: {limited}") from None
            except FailedError as failure:
                failures += 1
                if failure.wait is not None:
                    self._wait(turn, failure)
                if failures == self._source.tries:
                    raise
                pause = min(LONGEST_PAUSE, 2.0**failures / 4)
                await asyncio.sleep(pause * random.uniform(0.75, 1))
            else:
                self._pace.completed()
                return completion

    def _wait(self, turn: float, failure: FailedError) -> None:
        """Have all requests wait for as long as the server asks; say so if it takes long."""
        is_limit = isinstance(failure, RateLimitedError)
        seconds = self._pace.wait(turn, failure.wait, fewer=is_limit)
        advice = f"a lower models.{self._name}.in_flight sends fewer requests at once"
        if seconds is None:
            asked = "" if failure.wait is None else f" asks to wait {failure.wait:g} s and"
            raise UnavailableError(
                f"{self.url}{asked} completes nothing; a run waits for at most {LONGEST_WAIT:g} s "
                f"in a row ({failure}); run again later; {advice}"
            )
        if seconds >= TOLD_WAIT or (seconds and is_limit and not self._told):
            self._told = self._told or is_limit
            print(
                f"{self._name}: {self.url} limits the requests; waiting {seconds:.1f} s, then "
                f"sending at most {self._pace.at_once} at once; {advice}: {failure}",
                file=sys.stderr,
            )

    async def _try(self, request: Request) -> Completion:
        """Send a request once; decide about a refusal by sending a short prompt."""
        try:
            return await self._send(request)
        except RefusedError as refusal:
            if not await self._accepts_short_prompts(request):
                raise UserError(
                    f"models.{self._name}: {self.url}: {refusal}; {refusal.advice}"
                ) from None
            if isinstance(refusal, FilteredError):
                return Completion("", CONTENT_FILTER, 0, 0)
            if not self._told_refusal:
                self._told_refusal = True
                print(
                    f"{self._name}: {self.url} refuses a prompt, but not a short one: it is asked "
                    f"with fewer examples, and set aside as too_long without any: {refusal}",
                    file=sys.stderr,
                )
            return Completion("", TOO_LONG, 0, 0)

    async def _accepts_short_prompts(self, request: Request) -> bool:
        """Return whether the server completes a short prompt of the same form and settings."""
        shown = tuple(("Hello.", "Hello.") for _ in request.conversation.shown)
        conversation = replace(request.conversation, shown=shown, user="Hello.")
        short = replace(request, conversation=conversation, seed=0)
        async with self._checking:
            if not self._accepted.get(short):
                try:
                    await self._send(short)
                except RefusedError:
                    return False
                self._accepted[short] = REFUSALS_PER_CHECK
            self._accepted[short] -= 1
        return True

    async def _send(self, request: Request) -> Completion:
        """Send a request once.

        Raises `FailedError` if it may succeed later, `RefusedError` if the server refuses it, and
        `UserError` for what is wrong with all requests.
        """
        body = self._body(request)
        reply = await self._transport.post(
            json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        )
        problem = ""
        if reply.status == 200:
            try:
                completion = replies.read_completion(reply.body, self._source.chat)
                return replace(completion, text=self._secret.taken_out(completion.text))
            except replies.NotACompletionError as error:
                problem = f"the response is not a completion ({error})"
        text = replies.whole_complaint(reply.body)
        if replies.says_too_long(reply.status, text):
            return Completion("", TOO_LONG, 0, 0)
        complaint = replies.complaint(reply.body) or "without a reason"
        problem = problem or f"HTTP {reply.status} {complaint}"
        reason = self._transport.through_proxy(self._secret.presentable(problem))
        if replies.says_filtered(reply.status, text):
            raise FilteredError(reason, self._advice(reply.status, text, body))
        wait = _seconds(reply.headers)
        if reply.status == 429 and "insufficient_quota" not in text:
            raise RateLimitedError(reason, wait)
        if reply.status in (200, 408, 409, 425) or reply.status >= 500:
            raise FailedError(reason, wait)
        advice = self._advice(reply.status, text, body)
        if reply.status in PERMANENT or reply.status < 400 or reply.status == 429:
            raise UserError(f"models.{self._name}: {self.url}: {reason}; {advice}")
        raise RefusedError(reason, advice)

    def _body(self, request: Request) -> dict[str, Any]:
        """Return what is sent for a request."""
        source, conversation = self._source, request.conversation
        body: dict[str, Any] = {"model": source.model, self._limit: request.max_tokens}
        if source.temperature:
            body["temperature"] = request.temperature
        if source.seed and request.temperature:
            body["seed"] = request.seed
        if not source.chat:
            return {"prompt": conversation.text(), "stop": ["\n\n"], **body}
        if template := source.chat_template_kwargs:
            body["chat_template_kwargs"] = template
        return {"messages": conversation.messages(), **body}

    def _advice(self, status: int, text: str, body: dict[str, Any]) -> str:
        """Return what to do about a refusal that is not about the prompt."""
        entry, key = f"models.{self._name}", self._source.key
        if status == 401:
            return f"set the environment variable {key} to a key that the server accepts"
        if status in (402, 429):
            return f"the account of the key in the environment variable {key} is used up"
        if status == 403:
            return f"the key in the environment variable {key} may not use this model"
        if status in (404, 405, 410):
            return (
                f"check that {entry}.url ends as the server expects (often /v1) and that it serves "
                f"{self._source.model!r}"
            )
        if "max_completion_tokens" in text:
            if self._source.max_completion_tokens:
                return f"remove {entry}.max_completion_tokens: the server's limit is max_tokens"
            return f"set {entry}.max_completion_tokens, the limit of thought and reply together"
        if name := replies.named_parameter(text, [n for n in ("seed", "temperature") if n in body]):
            return f"set {entry}.{name} to false: none is sent then"
        if replies.named_parameter(text, body.keys() & {"chat_template_kwargs"}):
            return f"remove {entry}.chat_template_kwargs"
        if replies.named_parameter(text, ["max_tokens"]):
            return "lower rationales.max_tokens and evaluate.max_tokens"
        return f"check the server's log and {entry}"


def _seconds(headers: httpx2.Headers) -> float | None:
    """Return how long a server asks to wait, None if it does not say so in a way that counts."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name, "").strip()[:100]
        if re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
            return float(text) * unit
    try:
        moment = email.utils.parsedate_to_datetime(headers.get("retry-after", "")[:100])
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError, OSError):
        return None
