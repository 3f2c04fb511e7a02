"""Score the words of questions, or of a teacher's own rationales, with the teacher.

Each batch of scores is stored, so that a killed run resumes.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.distil.attribution.attributor import Attributor, Scores, random_scores
from stages.distil.attribution.prompts import Prompt, encode_prompt, scored_text
from stages.distil.interface.catalogue import template_variables
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import parse_answer, same, without_conclusion
from stages.distil.language.chat import Chat
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.models.hardware import precision
from stages.distil.models.loading import load_model, load_tokenizer
from stages.distil.models.lora import with_adapter
from stages.distil.storage.examples import Example
from stages.distil.storage.rationales import accepted_rationales
from stages.distil.storage.store import Store
from stages.distil.weights.folders import ADAPTER, digest, fingerprint, model_folder

ATTRIBUTIONS = Path(".cache/attributions/attributions.sqlite")  # `make clean` keeps it
COLUMNS = {"result": "TEXT"}
WINDOW = 2048  # questions that are sorted by length together
PREDICTED_TOGETHER = 64  # questions whose predictions are one entry of the store
ANSWER_TOKENS = 32  # of the prediction for a question without options

Reading = tuple[Example, str]  # a question and the rationale that the teacher reads after it, or ""


class WordScores:
    """A teacher's scores of the words that it reads.

    `unexplained` counts the questions without a rationale, where its words are to be scored.
    """

    def __init__(self, parameters: Parameters, store: Store):
        """Load the teacher's tokenizer; its weights are loaded when a score needs them."""
        self._settings = parameters.saliency
        self._statuses = parameters.assemble.statuses
        self._store = store
        self._wording = PromptFile(parameters.rationales.prompts.answer)
        self._folder = model_folder(self._settings.teacher)
        self._dtype = precision(self._settings.dtype)
        self._tokenizer = load_tokenizer(self._folder)
        self._source = parameters.models[self._settings.teacher]
        self._chat = Chat(self._settings.teacher, self._tokenizer, template_variables(self._source))
        self.unexplained = 0

    @cached_property
    def _attributor(self) -> Attributor:
        model, _ = load_model(self._folder, self._dtype)
        if self._settings.finetune.epochs:
            model = with_adapter(model, ADAPTER)
        padding = self._tokenizer.pad_token_id
        return Attributor(model, self._settings, 0 if padding is None else padding)

    @cached_property
    def _identity(self) -> str:
        identity = [self._dtype, fingerprint(self._source, self._folder)]
        if self._settings.finetune.epochs:
            identity.append(digest(ADAPTER))
        return json.dumps(identity, sort_keys=True)

    def rows(self, examples: Iterable[Example], total: int) -> Iterator[dict[str, Any]]:
        """Yield a row of `saliency` for each of `total` questions, in their order.

        Questions without a rationale are left out where its words are to be scored, and with
        `only_correct` those that the teacher answers wrongly.
        """
        remaining = self._readings(examples)
        with tqdm(total=total, desc="saliency", unit="row", file=sys.stderr) as progress:
            while window := list(islice(remaining, WINDOW)):
                targets = self._targets(window)
                chosen = [(r, t) for r, t in zip(window, targets, strict=True) if t is not None]
                progress.update(len(window) - len(chosen))
                prompts = [self._prompt(reading, target) for reading, target in chosen]
                scored = self._scores(prompts, progress)
                for (reading, target), prompt, scores in zip(chosen, prompts, scored, strict=True):
                    yield self._row(reading, target, prompt, scores)
            progress.update(self.unexplained)

    def _readings(self, examples: Iterable[Example]) -> Iterator[Reading]:
        """Yield what the teacher reads of each question, with a rationale if its words count.

        The rationale's conclusion is left out: it would say that the answer's own words matter.
        """
        settings = self._settings
        if settings.of == "question":
            yield from ((example, "") for example in examples)
            return
        for example, text in accepted_rationales(examples, settings.teacher, self._statuses):
            if rationale := without_conclusion(text, example.options, example.answer):
                yield example, rationale
            else:
                self.unexplained += 1

    def _row(self, reading: Reading, target: str, prompt: Prompt, scores: Scores) -> dict[str, Any]:
        return {
            "id": reading[0].id,
            "text": scored_text(*reading),
            "words": [
                {"start": start, "end": end, "score": score}
                for (start, end), score in zip(prompt.spans, scores.words, strict=True)
            ],
            "method": self._settings.method,
            "target": target,
            "delta": scores.delta,
        }

    def _scores(self, prompts: Sequence[Prompt], progress: tqdm) -> list[Scores]:
        if self._settings.method == "random":
            progress.update(len(prompts))
            return list(map(random_scores, prompts))
        scores = [Scores([])] * len(prompts)
        self._attributor.cache_prefix(prompts)
        for chosen in self._attributor.batches(prompts):
            batch = [prompts[i] for i in chosen]
            key = self._attributor.key(self._identity, batch)
            if stored := self._store.select(key):
                self._store.hits += 1
                batch_scores = [Scores(*values) for values in json.loads(stored[0])]
            else:
                batch_scores = self._attributor.score(batch)
                self._require_finite(batch_scores)
                values = [[score.words, score.delta] for score in batch_scores]
                self._store.insert(key, [json.dumps(values)])
            for i, score in zip(chosen, batch_scores, strict=True):
                scores[i] = score
            progress.update(len(chosen))
        return scores

    def _require_finite(self, batch: Sequence[Scores]) -> None:
        if not all(isfinite(score) for scores in batch for score in scores.words):
            raise UserError(
                f"{self._settings.teacher}: the attribution is not finite in {self._dtype}; set "
                "saliency.dtype to float32, or choose another saliency.teacher"
            )

    def _targets(self, readings: Sequence[Reading]) -> list[str | None]:
        """Return the answer to attribute for each question; None leaves a question out."""
        settings = self._settings
        if settings.target == "gold" and not settings.only_correct:
            return [example.answer for example, _ in readings]
        targets: list[str | None] = []
        for start in range(0, len(readings), PREDICTED_TOGETHER):
            group = readings[start : start + PREDICTED_TOGETHER]
            for (example, _), prediction in zip(group, self._predictions(group), strict=True):
                correct = same(prediction, example.answer, example.options)
                target = prediction if settings.target == "prediction" else example.answer
                targets.append(target if correct or not settings.only_correct else None)
        return targets

    def _predictions(self, readings: Sequence[Reading]) -> list[str]:
        """Return the teacher's own answers.

        An answer is the option whose tokens have the largest mean log-probability. Without options
        it is the teacher's greedy text.
        """
        options = [(n, o) for n, (example, _) in enumerate(readings) for o in example.options]
        prompts = [self._prompt(readings[n], option) for n, option in options]
        free = [n for n, (example, _) in enumerate(readings) if not example.options]
        open_ended = [self._prompt(readings[n], readings[n][0].answer) for n in free]
        self._attributor.cache_prefix(prompts + open_ended)
        key = self._attributor.key(f"{self._identity} predictions", prompts + open_ended)
        if stored := self._store.select(key):
            return json.loads(stored[0])
        best: dict[int, tuple[float, str]] = {}
        values = self._attributor.log_probabilities(prompts)
        for (n, option), prompt, value in zip(options, prompts, values, strict=True):
            mean = value / len(prompt.label)
            if n not in best or mean > best[n][0]:
                best[n] = (mean, option)
        texts = self._attributor.continuations(open_ended, ANSWER_TOKENS)
        for n, tokens in zip(free, texts, strict=True):
            text = self._tokenizer.decode(tokens, skip_special_tokens=True)
            best[n] = (0.0, parse_answer(text, []))
        predictions = [best[n][1] for n in range(len(readings))]
        self._store.insert(key, [json.dumps(predictions)])
        return predictions

    def _prompt(self, reading: Reading, label: str) -> Prompt:
        example, rationale = reading
        conversation = self._wording.conversation(example)
        of = self._settings.of
        return encode_prompt(self._chat, conversation, example, label, rationale, of)
