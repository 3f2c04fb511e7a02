"""What the attribution computes with the teacher's weights, one stored result after another."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from stages.distil.attribution.attributor import Attributor
from stages.distil.attribution.prompts import Prompt
from stages.distil.interface.method import Saliency
from stages.distil.language.answers import parse_answer
from stages.distil.language.appearance import as_text
from stages.distil.language.chat import Chat
from stages.distil.models.generation import end_tokens, missing_ends
from stages.distil.models.loading import load_model
from stages.distil.models.lora import with_adapter
from stages.distil.weights.architecture import generation_settings

ANSWER_TOKENS = 32  # of the prediction for a question without options


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to compute together, and the ids of their questions.

    The result is one entry of the store. `shared` holds the tokens that all prompts begin with.
    """

    key: bytes
    ids: list[str]
    shared: list[int]
    prompts: list[Prompt]


@dataclass(frozen=True)
class PredictionBatch(PromptBatch):
    """Questions whose answers to predict.

    `options[i]` is the question's number and the option that `prompts[i]` asks for; `open_ended`
    holds the number and the prompt of each question without options.
    """

    options: list[tuple[int, str]]
    open_ended: list[tuple[int, Prompt]]


class AttributionTeacher:
    """A teacher that scores the words of prompts and predicts answers."""

    def __init__(
        self,
        attributor: Attributor,
        tokenizer: PreTrainedTokenizerBase,
        ends: Sequence[int] | None = None,
    ):
        """Take the tokens that end a predicted answer, by default the model's own."""
        self.attributor = attributor
        self._tokenizer = tokenizer
        self._ends = ends
        self._checked = False

    def complete(self, batches: Iterable[PromptBatch]) -> Iterator[tuple[PromptBatch, list[Any]]]:
        """Yield each batch with its result."""
        for batch in batches:
            yield batch, self.compute(batch)

    def compute(self, batch: PromptBatch) -> list[Any]:
        """Return the words' scores and the delta of each prompt, or each question's prediction.

        Raises `UserError` if the first prompts show that the model cannot be scored in batches.
        """
        self.attributor.share(batch.shared)
        if batch.prompts and not self._checked:
            self.attributor.check(batch.prompts)
            self._checked = True
        if isinstance(batch, PredictionBatch):
            return self._predictions(batch)
        return [[scores.words, scores.delta] for scores in self.attributor.score(batch.prompts)]

    def _predictions(self, questions: PredictionBatch) -> list[str]:
        """Return the teacher's own answers.

        An answer is the option whose tokens have the largest mean log-probability. Without options
        it is the teacher's greedy text.
        """
        best: dict[int, tuple[float, str]] = {}
        values = self.attributor.log_probabilities(questions.prompts)
        for (n, option), prompt, value in zip(
            questions.options, questions.prompts, values, strict=True
        ):
            mean = value / len(prompt.label)
            if n not in best or mean > best[n][0]:
                best[n] = (mean, option)
        open_ended = [prompt for _, prompt in questions.open_ended]
        texts = self.attributor.continuations(open_ended, ANSWER_TOKENS, self._ends)
        for (n, _), tokens in zip(questions.open_ended, texts, strict=True):
            text = as_text(self._tokenizer.decode(tokens, skip_special_tokens=True))
            best[n] = (0.0, parse_answer(text, []))
        return [best[n][1] for n in range(len(best))]


def load_teacher(
    folder: Path, settings: Saliency, dtype: str, adapter: Path | None
) -> AttributionTeacher:
    """Load a teacher, with an adapter's matrices if there is one."""
    model, tokenizer = load_model(folder, dtype)
    if adapter:
        model = with_adapter(model, adapter)
    attributor = Attributor(model, settings, padding(tokenizer))
    ends = None
    if missing := missing_ends(Chat(folder.name, tokenizer), folder).tokens:
        ends = sorted({*missing, *end_tokens(generation_settings(folder), tokenizer)})
    return AttributionTeacher(attributor, tokenizer, ends)


def padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of a tokenizer's padding token, 0 if it has none."""
    return 0 if tokenizer.pad_token_id is None else tokenizer.pad_token_id
