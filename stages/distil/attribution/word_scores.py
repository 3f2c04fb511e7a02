"""Score the words of questions, or of a teacher's own rationales, with the teacher.

It computes here, or on a cluster. Each batch of scores is stored, so that a killed run resumes.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, starmap
from math import isfinite
from pathlib import Path
from typing import Any

from tqdm import tqdm

from stages.distil.attribution.attributor import Attributor, Scores, random_scores
from stages.distil.attribution.prompts import Prompt, encode_prompt, scored_text
from stages.distil.attribution.teacher import (
    AttributionTeacher,
    PredictionBatch,
    PromptBatch,
    load_teacher,
    padding,
)
from stages.distil.cluster.pool import Pool
from stages.distil.interface.catalogue import template_variables
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.language.answers import same
from stages.distil.language.chat import Chat
from stages.distil.language.conclusions import without_conclusion
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.models.batching import in_parts
from stages.distil.models.generation import missing_ends
from stages.distil.models.hardware import precision
from stages.distil.storage.examples import Example
from stages.distil.storage.rationales import accepted_rationales
from stages.distil.storage.store import Store
from stages.distil.weights.architecture import (
    load_config,
    load_tokenizer,
    model_without_weights,
)
from stages.distil.weights.checking import refuse_quantised
from stages.distil.weights.folders import ADAPTER, digest, fingerprint, model_folder

ATTRIBUTIONS = Path(".cache/attributions/attributions.sqlite")  # `make clean` keeps it
COLUMNS = {"result": "TEXT"}
WINDOW = 2048  # questions that are sorted by length together
PREDICTED_TOGETHER = 64  # questions whose predictions are one entry of the store

Reading = tuple[Example, str]  # a question and the rationale that the teacher reads after it, or ""
Chosen = list[tuple[Reading, str]]  # what the teacher reads, and the answer to attribute


class WordScores:
    """A teacher's scores of the words that it reads.

    `unexplained` counts the questions without a rationale, where its words are to be scored.
    """

    def __init__(self, parameters: Parameters, store: Store):
        """Load the teacher's tokenizer; its weights are loaded when a score needs them."""
        self._settings = parameters.saliency
        self._cluster = parameters.cluster
        self._statuses = parameters.assemble.statuses
        self._store = store
        self._wording = PromptFile(parameters.rationales.prompts.answer)
        self._folder = model_folder(self._settings.teacher)
        if self._settings.method != "random":
            refuse_quantised(self._folder, "saliency.teacher")
        self._dtype = precision(self._settings.dtype)
        self._tokenizer = load_tokenizer(self._folder)
        self._source = parameters.models[self._settings.teacher]
        self._chat = Chat(
            self._settings.teacher,
            self._tokenizer,
            template_variables(self._source),
            load_config(self._folder).is_encoder_decoder,
        )
        self.unexplained = 0

    @cached_property
    def _teacher(self) -> AttributionTeacher:
        return load_teacher(self._folder, self._settings, self._dtype, self._adapter)

    @cached_property
    def _pool(self) -> Pool:
        budget = {"batch_tokens": self._attributor.batch_tokens}  # not what suits the worker
        settings = self._settings.model_copy(update=budget)
        adapter = self._adapter and self._adapter.resolve()
        start = partial(load_teacher, self._folder.resolve(), settings, self._dtype, adapter)
        gpus = min(1, self._cluster.gpus)
        return Pool(start, self._cluster, lambda batch: ", ".join(batch.ids), gpus)

    @cached_property
    def _attributor(self) -> Attributor:
        """What forms the batches, for which a model needs no weights."""
        if self._cluster.engine is None:
            return self._teacher.attributor
        model = model_without_weights(self._folder, self._dtype)
        return Attributor(model, self._settings, padding(self._tokenizer))

    @property
    def _adapter(self) -> Path | None:
        return ADAPTER if self._settings.finetune.epochs else None

    @cached_property
    def _identity(self) -> str:
        identity = [self._dtype, fingerprint(self._source, self._folder)]
        if self._adapter:
            identity.append(digest(self._adapter))
        return json.dumps(identity, sort_keys=True)

    def rows(
        self, examples: Callable[[], Iterable[Example]], total: int
    ) -> Iterator[dict[str, Any]]:
        """Yield a row of `saliency` for each of `total` questions, in their order.

        Questions without a rationale are left out where its words are to be scored, and with
        `only_correct` those that the teacher answers wrongly. `examples` is called again for each
        pass of a cluster, which first computes what the store lacks.
        """
        on_cluster = self._cluster.engine is not None
        if on_cluster:
            self._fill_store(examples, total)
        with tqdm(
            total=total, desc="saliency", unit="row", file=sys.stderr, disable=on_cluster
        ) as progress:
            for window in in_parts(self._readings(examples()), WINDOW):
                chosen = self._choose(window)
                progress.update(len(window) - len(chosen))
                prompts = self._prompts(chosen)
                scores = self._scores(chosen, prompts, progress)
                for (reading, target), prompt in zip(chosen, prompts, strict=True):
                    yield self._row(reading, target, prompt, scores[reading[0].id])
            progress.update(self.unexplained)

    def _fill_store(self, examples: Callable[[], Iterable[Example]], total: int) -> None:
        """Have a cluster compute what the store lacks; predictions come first, if they count."""

        def questions(window: list[Reading]) -> Iterator[PromptBatch]:
            return map(self._questions, in_parts(window, PREDICTED_TOGETHER))

        def prompts(window: list[Reading]) -> Iterator[PromptBatch]:
            chosen = self._choose(window)
            return self._batches(chosen, self._prompts(chosen))

        passes = {"saliency: predictions": questions} if self._predicts else {}
        if self._settings.method != "random":
            passes["saliency"] = prompts
        for label, batches in passes.items():
            with tqdm(total=total, desc=label, unit="row", file=sys.stderr) as progress:
                windows = in_parts(self._readings(examples()), WINDOW)
                missing = self._missing(chain.from_iterable(map(batches, windows)), progress)
                if first := next(missing, None):
                    for batch, result in self._pool.complete(chain([first], missing)):
                        self._keep(batch, result)
                        progress.update(len(batch.ids))

    def _missing(self, batches: Iterable[PromptBatch], progress: tqdm) -> Iterator[PromptBatch]:
        for batch in batches:
            if self._store.select(batch.key) is None:
                yield batch
            else:
                self._store.hits += 1
                progress.update(len(batch.ids))

    def _readings(self, examples: Iterable[Example]) -> Iterator[Reading]:
        """Yield what the teacher reads of each question, with a rationale if its words count.

        The rationale's conclusion is left out: it would say that the answer's own words matter.
        """
        settings = self._settings
        self.unexplained = 0
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

    def _scores(
        self, chosen: Chosen, prompts: Sequence[Prompt], progress: tqdm
    ) -> dict[str, Scores]:
        """Return the scores of each prompt by the question's id."""
        ids = [example.id for (example, _), _ in chosen]
        if self._settings.method == "random":
            progress.update(len(prompts))
            return dict(zip(ids, map(random_scores, prompts), strict=True))
        scores: dict[str, Scores] = {}
        for batch in self._batches(chosen, prompts):
            scores |= zip(batch.ids, starmap(Scores, self._result(batch)), strict=True)
            progress.update(len(batch.ids))
        return scores

    def _batches(self, chosen: Chosen, prompts: Sequence[Prompt]) -> Iterator[PromptBatch]:
        """Yield the prompts in the batches to score together."""
        self._attributor.cache_prefix(prompts)
        for indices in self._attributor.batches(prompts):
            together = [prompts[i] for i in indices]
            key = self._attributor.key(self._identity, together)
            ids = [chosen[i][0][0].id for i in indices]
            yield PromptBatch(key, ids, self._attributor.shared, together)

    def _result(self, batch: PromptBatch) -> list[Any]:
        """Return a batch's result, from the store if it is there."""
        if stored := self._store.select(batch.key):
            self._store.hits += self._cluster.engine is None  # else _missing has counted it
            return json.loads(stored[0])
        return self._keep(batch, self._teacher.compute(batch))

    def _keep(self, batch: PromptBatch, result: list[Any]) -> list[Any]:
        """Store a result and return it; raise `UserError` if a score is not finite."""
        if not isinstance(batch, PredictionBatch) and not all(
            isfinite(score) for words, _ in result for score in words
        ):
            raise UserError(
                f"{self._settings.teacher}: the attribution is not finite in {self._dtype}; set "
                "saliency.dtype to float32, or choose another saliency.teacher"
            )
        self._store.insert(batch.key, [json.dumps(result)])
        return result

    @property
    def _predicts(self) -> bool:
        """Whether the teacher's own answers count."""
        return self._settings.target == "prediction" or self._settings.only_correct

    def _choose(self, readings: Sequence[Reading]) -> Chosen:
        """Return what to score, each with the answer to attribute."""
        if not self._predicts:
            return [(reading, reading[0].answer) for reading in readings]
        chosen: Chosen = []
        for group in in_parts(readings, PREDICTED_TOGETHER):
            predictions = self._result(self._questions(group))
            for reading, prediction in zip(group, predictions, strict=True):
                example = reading[0]
                target = prediction if self._settings.target == "prediction" else example.answer
                correct = same(prediction, example.answer, example.options)
                if correct or not self._settings.only_correct:
                    chosen.append((reading, target))
        return chosen

    def _prompts(self, chosen: Chosen) -> list[Prompt]:
        return [self._prompt(reading, target) for reading, target in chosen]

    def _questions(self, readings: Sequence[Reading]) -> PredictionBatch:
        """Return questions whose answers the teacher predicts together."""
        options = [(n, o) for n, (example, _) in enumerate(readings) for o in example.options]
        prompts = [self._prompt(readings[n], option) for n, option in options]
        open_ended = [
            (n, self._prompt(reading, reading[0].answer))
            for n, reading in enumerate(readings)
            if not reading[0].options
        ]
        every = prompts + [prompt for _, prompt in open_ended]
        self._attributor.cache_prefix(every)
        kind = "predictions"
        if open_ended and (ends := missing_ends(self._chat, self._folder).tokens):
            kind = f"predictions up to {ends}"
        key = self._attributor.key(f"{self._identity} {kind}", every)
        ids = [example.id for example, _ in readings]
        return PredictionBatch(key, ids, self._attributor.shared, prompts, options, open_ended)

    def _prompt(self, reading: Reading, label: str) -> Prompt:
        example, rationale = reading
        conversation = self._wording.conversation(example)
        of = self._settings.of
        return encode_prompt(self._chat, conversation, example, label, rationale, of)
