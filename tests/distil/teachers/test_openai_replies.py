"""What is read from a server's reply: a whole completion, or nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.teachers import openai_replies as replies
from stages.distil.teachers.backend import Completion

ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(2**31, 2**80) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "choices",
    "choices.0",
    "choices.0.message",
    "choices.0.message.content",
    "choices.0.message.reasoning",
    "choices.0.message.reasoning_content",
    "choices.0.finish_reason",
    "usage",
    "usage.prompt_tokens",
    "usage.completion_tokens",
)


def whole() -> dict:
    message = {"role": "assistant", "content": "It is tea."}
    return {
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5},
    }


def changed(path: str, value: object) -> bytes:
    """Return the body of a reply with another value in one of its fields."""
    reply = whole()
    *keys, last = path.split(".")
    place = reply
    for key in keys:
        place = place[int(key)] if key.isdigit() else place[key]
    place[int(last) if last.isdigit() else last] = value
    return json.dumps(reply).encode()


@given(st.sampled_from(FIELDS), ANY)
def test_a_reply_is_a_valid_completion_or_none_at_all(path, value):
    try:
        completion = replies.read_completion(changed(path, value), chat=True)
    except replies.NotACompletionError as error:
        assert len(str(error)) < 200 or "error" in json.dumps(value)
    else:
        assert isinstance(completion.text, str) and isinstance(completion.finish_reason, str)
        assert len(completion.finish_reason) <= 40
        for count in (completion.prompt_tokens, completion.output_tokens):
            assert type(count) is int and 0 <= count < 2**31
        completion.text.encode()


@given(st.binary(max_size=200))
def test_any_bytes_have_a_complaint(body):
    with pytest.raises(replies.NotACompletionError):
        replies.read_completion(body, chat=True)
    assert isinstance(replies.complaint(body), str)
    assert isinstance(replies.whole_complaint(body), str)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("usage", [1]),
        ("usage.prompt_tokens", "nine"),
        ("usage.prompt_tokens", "9"),
        ("usage.prompt_tokens", 1.5),
        ("usage.prompt_tokens", True),
        ("usage.prompt_tokens", -1),
        ("usage.completion_tokens", 2**40),
        ("usage.completion_tokens", 2**70),
        ("choices", []),
        ("choices", None),
        ("choices.0.message", None),
        ("choices.0.message.content", 7),
        ("choices.0.message.content", {"a": 1}),
        ("choices.0.message.content", ["a"]),
        ("choices.0.message.content", [{"type": "text", "text": 5}]),
        ("choices.0.finish_reason", 7),
        ("choices.0.finish_reason", ["stop"]),
        ("choices.0.finish_reason", "x" * 41),
        ("choices.0.finish_reason", "error"),
        ("choices.0.finish_reason", "too_long"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(path, value):
    with pytest.raises(replies.NotACompletionError, match=path.rpartition(".")[2]):
        replies.read_completion(changed(path, value), chat=True)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None, "completion_tokens": None}])
def test_a_count_that_is_left_out_is_zero(usage):
    completion = replies.read_completion(changed("usage", usage), chat=True)
    assert completion == Completion("It is tea.", "stop", 0, 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" * 200_000, "nested too deeply"),
        (b'{"choices":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested too deeply"),
        (b'{"choices": ' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"choices": "\xff"}', "not UTF-8"),
        (b"", "not valid JSON"),
        (b"null", "valid dictionary"),
        (b"<html><h1>Down</h1>", "Down"),
    ],
)
def test_what_is_no_json_object_is_described_in_words(body, reason):
    with pytest.raises(replies.NotACompletionError, match=reason):
        replies.read_completion(body, chat=True)


@pytest.mark.parametrize(
    ("given_reason", "kept"),
    [
        (None, "stop"),
        ("STOP", "stop"),
        ("eos_token", "stop"),
        ("MAX_TOKENS", "length"),
        ("length", "length"),
        ("SAFETY", "content_filter"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"),
    ],
)
def test_finish_reasons_have_one_name_each(given_reason, kept):
    body = changed("choices.0.finish_reason", given_reason)
    assert replies.read_completion(body, chat=True).finish_reason == kept


@pytest.mark.parametrize(
    "piece",
    [b"<script", b"exceeds the maximum ", b"input length ", b"[", b'{"error":', b"\xff", b"<"],
)
def test_a_body_of_any_kind_and_size_is_read_at_once(piece):
    """Patterns that look again at all that follows would take hours for four megabytes."""
    body = piece * (2**22 // len(piece))
    assert len(replies.complaint(body)) <= 2 * replies.LONGEST_COMPLAINT
    assert not replies.says_too_long(400, replies.whole_complaint(body))
    with pytest.raises(replies.NotACompletionError) as refused:
        replies.read_completion(b'{"choices": [' + b"1," * 2**21 + b"1]}", chat=True)
    assert len(str(refused.value)) < 200


def error(message: str, **more) -> dict:
    return {"error": {"message": message} | more}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("This model's maximum context length is 16 tokens. However, you asked 20.")),
        (400, error("Please reduce the length of the messages.")),
        (400, error("Bad request", code="context_length_exceeded")),
        (400, error("The decoder prompt (length 43) is longer than the maximum model length of 4")),
        (400, error("request (43 tokens) exceeds the available context size (40 tokens)")),
        (500, error("Context size has been exceeded.")),
        (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4"}),
        (422, {"error": "`inputs` must have less than 1024 tokens. Given: 2000"}),
        (400, [error("The input token count (14) exceeds the maximum number of tokens allowed")]),
        (413, error("Request too large for model `m` on tokens per minute (TPM): Limit 6000")),
        (429, error("Request too large for gpt on tokens per min (TPM): Limit 3, Requested 4")),
        (400, error("prompt is too long: 210000 tokens > 200000 maximum")),
        (400, {"message": "Input is too long for requested model."}),
        (400, "Sequence too long"),
        (400, error("Input length (5000 tokens) exceeds the maximum allowed length (4091 tokens)")),
        (
            400,
            error("Prompt contains 40 tokens, too large for model with 32 maximum context length"),
        ),
        (400, error("Range of input length should be [1, 30720]", code="InvalidParameter")),
        (500, error("The sum of prompt length (80) and max_tokens should not exceed 40")),
        (400, {"message": "too many tokens: size limit exceeded by 123 tokens"}),
        (400, error("This model's maximum prompt length is 13 but the request contains 14 tokens")),
        (400, error("the input length exceeds the context length")),
        (500, error("Requested tokens (5000) exceed context window of 4096")),
        (413, "<html><h1>413 Request Entity Too Large</h1></html>"),
        (200, error("This endpoint's maximum context length is 16 tokens", code=400)),
    ],
)
def test_a_prompt_that_is_too_long_is_recognised_in_every_shape(status, body):
    sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert replies.says_too_long(status, replies.whole_complaint(sent))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (429, error("Rate limit reached on tokens per min. Limit: 10000 / min. Current: 10020")),
        (429, error("You exceeded your current quota", code="insufficient_quota")),
        (400, error("max_tokens is too large: 5000. This model supports 4096 completion tokens")),
        (400, error("temperature must be at most 2")),
        (401, error("your key is too long")),
        (500, error("no")),
        (503, error("The queue is too long, context length unknown")),
    ],
)
def test_other_errors_are_not_taken_for_a_long_prompt(status, body):
    assert not replies.says_too_long(status, replies.whole_complaint(json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (error("no"), "no"),
        ([error("first"), error("second")], "first; second"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "not permitted"}]}, "body.seed: not permit"),
        ({"object": "error", "message": {"detail": [{"msg": "extra"}]}}, "extra"),
        ("plain words", "plain words"),
        ({"status": 5}, ""),
    ],
)
def test_an_errors_message_is_found_in_every_shape(body, told):
    assert replies.complaint(json.dumps(body).encode()).startswith(told)
