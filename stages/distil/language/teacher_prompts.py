"""Teachers' prompts: the user's Jinja files, filled with a question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError

from stages.distil.interface.errors import UserError
from stages.distil.interface.paths import read_text
from stages.distil.language.rendering import Sandbox, check_length, limited_rendering
from stages.distil.language.student_prompts import letters, options_text
from stages.distil.storage.examples import Example

BLOCKS = ("system", "user", "assistant", "cue")
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Conversation:
    """A teacher's prompt; `shown` holds the solved examples, each a question and a reply.

    `cue` opens the reply of a model without a chat template.
    """

    system: str
    shown: tuple[tuple[str, str], ...]
    user: str
    cue: str

    def messages(self, system_role: bool = True) -> Messages:
        """Return the conversation for a chat template; each solved example is a turn.

        Without `system_role`, the system message opens the first turn.
        """
        messages = [{"role": "system", "content": self.system}]
        for user, assistant in self.shown:
            messages.append({"role": "user", "content": user})
            messages.append({"role": "assistant", "content": assistant})
        messages.append({"role": "user", "content": self.user})
        if not self.system:
            return messages[1:]
        if not system_role:
            first = f"{self.system}\n\n{messages[1]['content']}"
            return [{"role": "user", "content": first}, *messages[2:]]
        return messages

    def with_texts(self, change: Callable[[str], str]) -> "Conversation":
        """Return the conversation with each of its texts changed."""
        shown = tuple((change(user), change(reply)) for user, reply in self.shown)
        return Conversation(change(self.system), shown, change(self.user), change(self.cue))

    def text(self) -> str:
        """Return the conversation as plain text, for a model without a chat template."""
        solved = [f"{user}\n{self.cue} {assistant}" for user, assistant in self.shown]
        parts = [self.system, *solved, f"{self.user}\n{self.cue}"]
        return "\n\n".join(part for part in parts if part)


class PromptFile:
    """A Jinja file with the blocks `system`, `user`, `assistant` and `cue`.

    They can use `question`, `options` (a list, empty if the answer is free-form), `listed_options`
    (as the student reads them), `letters` (of the options: a, b …), `answer` and, in `assistant`,
    `rationale`. The template runs in a sandbox.
    """

    def __init__(self, path: Path):
        self._path = path
        environment = Sandbox(
            undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
        )
        try:
            self._template: Template = environment.from_string(read_text(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such prompt file; see rationales.prompts") from None
        except TemplateSyntaxError as error:
            raise UserError(f"{path}, line {error.lineno}: {error.message}") from None
        except (TemplateError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}") from None
        except RecursionError:
            raise UserError(f"{path}: it is nested too deeply") from None
        self._solved: dict[tuple[str, str], tuple[str, str]] = {}  # rendered, by id and rationale
        missing = [name for name in BLOCKS if name not in self._template.blocks]
        if missing:
            raise UserError(
                f"{path}: expected the blocks {', '.join(BLOCKS)}; missing: {', '.join(missing)}"
            )

    def conversation(
        self, example: Example, shown: Sequence[tuple[Example, str]] = ()
    ) -> Conversation:
        """Return the conversation that asks a question after solved examples with rationales.

        Raises `UserError` if a block of the file cannot be rendered.
        """
        values = _values(example)
        return Conversation(
            system=self._fill("system", values),
            shown=tuple(self._turns(solved, rationale) for solved, rationale in shown),
            user=self._fill("user", values),
            cue=self._fill("cue", values),
        )

    def _turns(self, solved: Example, rationale: str) -> tuple[str, str]:
        """Return a solved example's question and reply; there are few, shown again and again."""
        turns = self._solved.get((solved.id, rationale))
        if turns is None:
            values = _values(solved)
            reply = self._fill("assistant", values | {"rationale": rationale})
            turns = self._solved[solved.id, rationale] = (self._fill("user", values), reply)
        return turns

    def _fill(self, block: str, values: Mapping[str, Any]) -> str:
        context = self._template.new_context(dict(values))
        parts: list[str] = []
        length = 0
        try:
            with limited_rendering():
                for part in self._template.blocks[block](context):
                    parts.append(part)
                    length += len(part)
                    check_length(length)
            return "".join(parts).strip()
        except Exception as error:  # any fault of the user's file
            raise UserError(f"{self._path}, block {block}: {error}") from error


def _values(example: Example) -> dict[str, Any]:
    return {
        "question": example.question,
        "options": example.options,
        "listed_options": options_text(example.options).removeprefix("\n"),
        "letters": letters(len(example.options)),
        "answer": example.answer,
    }
