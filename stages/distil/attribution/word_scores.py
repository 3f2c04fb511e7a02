"""Score the words of questions with a teacher.

Each batch of scores is stored, so that a killed run resumes.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.distil.attribution.attributor import Attributor, Scores
from stages.distil.attribution.prompts import Prompt, encode_prompt
from stages.distil.interface.catalogue import template_variables
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import parse_answer, same
from stages.distil.language.chat import Chat
from stages.distil.language.student_prompts import question_text
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.models.hardware import precision
from stages.distil.models.loading import load_model
from stages.distil.models.lora import with_adapter
from stages.distil.storage.examples import Example
from stages.distil.storage.store import Store
from stages.distil.weights.folders import ADAPTER, digest, fingerprint, model_folder

ATTRIBUTIONS = Path(".cache/attributions/attributions.sqlite")  # `make clean` keeps it
COLUMNS = {"result": "TEXT"}
WINDOW = 2048  # questions that are sorted by length together
PREDICTED_TOGETHER = 64  # questions whose predictions are one entry of the store
ANSWER_TOKENS = 32  # of the prediction for a question without options


class WordScores:
    """A teacher's scores of the words of questions."""

    def __init__(self, parameters: Parameters, store: Store):
        """Load the teacher."""
        self._settings = parameters.saliency
        self._store = store
        self._wording = PromptFile(parameters.rationales.prompts.answer)
        folder = model_folder(self._settings.teacher)
        self._dtype = dtype = precision(self._settings.dtype)
        model, self._tokenizer = load_model(folder, dtype)
        source = parameters.models[self._settings.teacher]
        self._chat = Chat(self._settings.teacher, self._tokenizer, template_variables(source))
        identity = [dtype, fingerprint(source, folder)]
        if self._settings.finetune.epochs:
            model = with_adapter(model, ADAPTER)
            identity.append(digest(ADAPTER))
        self._identity = json.dumps(identity, sort_keys=True)
        padding = self._tokenizer.pad_token_id
        self._attributor = Attributor(model, self._settings, 0 if padding is None else padding)

    def rows(self, examples: Iterable[Example], total: int) -> Iterator[dict[str, Any]]:
        """Yield a row of `saliency` for each of `total` questions, in their order.

        With `only_correct`, questions that the teacher answers wrongly are left out.
        """
        remaining = iter(examples)
        with tqdm(total=total, desc="saliency", unit="row", file=sys.stderr) as progress:
            while window := list(islice(remaining, WINDOW)):
                targets = self._targets(window)
                chosen = [(e, t) for e, t in zip(window, targets, strict=True) if t is not None]
                progress.update(len(window) - len(chosen))
                prompts = [self._prompt(example, target) for example, target in chosen]
                scored = self._scores(prompts, progress)
                for (example, target), prompt, scores in zip(chosen, prompts, scored, strict=True):
                    yield self._row(example, target, prompt, scores)

    def _row(self, example: Example, target: str, prompt: Prompt, scores: Scores) -> dict[str, Any]:
        return {
            "id": example.id,
            "text": question_text(example.question, example.options),
            "words": [
                {"start": start, "end": end, "score": score}
                for (start, end), score in zip(prompt.spans, scores.words, strict=True)
            ],
            "method": self._settings.method,
            "target": target,
            "delta": scores.delta,
        }

    def _scores(self, prompts: Sequence[Prompt], progress: tqdm) -> list[Scores]:
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

    def _targets(self, examples: Sequence[Example]) -> list[str | None]:
        """Return the answer to attribute for each question; None leaves a question out."""
        settings = self._settings
        if settings.target == "gold" and not settings.only_correct:
            return [example.answer for example in examples]
        targets: list[str | None] = []
        for start in range(0, len(examples), PREDICTED_TOGETHER):
            group = examples[start : start + PREDICTED_TOGETHER]
            for example, prediction in zip(group, self._predictions(group), strict=True):
                correct = same(prediction, example.answer, example.options)
                target = prediction if settings.target == "prediction" else example.answer
                targets.append(target if correct or not settings.only_correct else None)
        return targets

    def _predictions(self, examples: Sequence[Example]) -> list[str]:
        """Return the teacher's own answers.

        An answer is the option whose tokens have the largest mean log-probability. Without options
        it is the teacher's greedy text.
        """
        options = [(n, o) for n, example in enumerate(examples) for o in example.options]
        prompts = [self._prompt(examples[n], option) for n, option in options]
        free = [n for n, example in enumerate(examples) if not example.options]
        open_ended = [self._prompt(examples[n], examples[n].answer) for n in free]
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
        predictions = [best[n][1] for n in range(len(examples))]
        self._store.insert(key, [json.dumps(predictions)])
        return predictions

    def _prompt(self, example: Example, label: str) -> Prompt:
        return encode_prompt(self._chat, self._wording.conversation(example), example, label)
