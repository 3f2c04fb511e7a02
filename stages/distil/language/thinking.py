"""The thoughts that some models write before their reply, and where they end."""

# Of Qwen3, DeepSeek-R1 and most others; Magistral; Kimi; Seed-OSS; gpt-oss.
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)


def split_thought(text: str) -> tuple[str | None, str]:
    """Return the thought that a text begins with, None if it has none, and the reply after it.

    The opening mark may be missing, since some chat templates write it. A thought that was cut off
    leaves an empty reply.
    """
    for opening, closing in MARKS:
        thought, closed, reply = text.rpartition(closing)
        if closed:
            return thought.strip().removeprefix(opening).strip(), reply.strip()
        if text.lstrip().startswith(opening):
            return text.lstrip().removeprefix(opening).strip(), ""
    return None, text


def join_thought(thought: str, reply: str) -> str:
    """Return the text of a thought and a reply, which is empty if the thought was cut off."""
    opening, closing = MARKS[0]
    return f"{opening}\n{thought}\n{closing}\n\n{reply}" if reply else f"{opening}\n{thought}"


def opened_thought(prompt: str) -> str:
    """Return the mark with which a prompt opens a thought for the model to continue, or ""."""
    ends = prompt.rstrip()
    return next((opening for opening, _ in MARKS if ends.endswith(opening)), "")


def without_thought(prompt: str) -> str:
    """Return a prompt after which the reply follows; an opened thought is closed."""
    mark = opened_thought(prompt)
    return f"{prompt.rstrip()}\n\n{dict(MARKS)[mark]}\n\n" if mark else prompt
