"""The thoughts that some models write before their reply, and where they end."""

import re

# Of Qwen3, DeepSeek-R1 and most others; Magistral; Kimi; Seed-OSS; Command A; OpenThinker; Gemma;
# gpt-oss. Letters may have any case.
MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
# Of Granite, and of gpt-oss without its special tokens: plain words, so both must be there.
PHRASES = (
    ("Here is my thought process:", "Here is my response:"),
    ("analysis", "assistantfinal"),
)
# What some models put around the reply that follows a thought.
WRAPPING = re.compile(
    r"</?(?:answer|output|response|solution)>|<\|(?:begin|end)_of_solution\|>"
    r"|<\|(?:START|END)_RESPONSE\|>",
    re.IGNORECASE,
)


_PATTERNS = [
    (
        # Not `\s*`, which would read the rest of many empty lines at each of them.
        re.compile(rf"^[^\S\n]*{re.escape(opening)}", re.IGNORECASE | re.MULTILINE),
        re.compile(re.escape(closing), re.IGNORECASE),
        (opening, closing) in PHRASES,
    )
    for opening, closing in (*MARKS, *PHRASES)
]


def split_thought(text: str) -> tuple[str | None, str]:
    """Return the thought that a text begins with, None if it has none, and the reply after it.

    The opening mark may be missing, since some chat templates write it. A thought that was cut off
    leaves an empty reply.
    """
    for opening, closing, is_phrase in _PATTERNS:
        opened = opening.search(text)
        if is_phrase and (not opened or text[: opened.start()].strip()):
            continue
        start = opened.end() if opened else 0
        if ends := list(closing.finditer(text, start)):
            thought, reply = text[start : ends[-1].start()], text[ends[-1].end() :]
            return thought.strip(), WRAPPING.sub("", reply).strip()
        if opened and not is_phrase:
            return text[start:].strip(), ""
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
