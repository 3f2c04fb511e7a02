"""Encode the assembled data set for one student, in several processes."""

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pyarrow as pa
from tqdm import tqdm

from stages.distil.encoding import files
from stages.distil.encoding.encoder import Encoder, decode
from stages.distil.encoding.files import ASKED_ROW, TAUGHT_ROW, WINDOW, Asked, encoded_file, to_row
from stages.distil.encoding.limits import Limits
from stages.distil.encoding.samples import RESERVED, Sample, Window, with_drafts, with_room
from stages.distil.interface.method import ANSWER, REASONING, SALIENCY, Student
from stages.distil.storage import tables
from stages.distil.storage.examples import SPLITS
from stages.distil.weights.architecture import load_config, load_tokenizer
from stages.distil.weights.checking import refuse_quantised

PARTS = 8  # at least, for each process: starting one takes as long


@dataclass
class Report:
    """What `encode_splits` has met: limits by split, and the lengths of train texts in tokens.

    `lengths` counts the texts of each kind and length.
    """

    limits: dict[str, Limits] = field(default_factory=dict)
    lengths: Counter[tuple[str, int]] = field(default_factory=Counter)


@dataclass(frozen=True)
class Job:
    """How a student's tokens are made: its folder, settings, the teachers in their order.

    `max_tokens` is the longest answer that it may write, and `reasoning_tokens` the longest text of
    a rationale and an answer.
    """

    folder: Path
    settings: Student
    teachers: tuple[str, ...]
    max_tokens: int
    reasoning_tokens: int


class _Part(NamedTuple):
    """Some questions of a row group of `distill`."""

    split: str
    file: Path
    group: int
    start: int
    size: int


class _PartEncoder:
    """Encodes parts of `distill`, in this process."""

    def __init__(self, job: Job):
        refuse_quantised(job.folder, "student.model")
        self._tokenizer = load_tokenizer(job.folder)
        config = load_config(job.folder)
        self._encoder = Encoder(config, self._tokenizer, job.settings, job.teachers)
        self._job = job
        self.window = self._encoder.window

    def __call__(self, part: _Part) -> tuple[pa.RecordBatch, Report]:
        """Return the rows of the part's questions, and what was met."""
        group = _read_group(part.file, part.group)
        rows = group.slice(part.start, part.size).to_pylist()
        report = Report({part.split: Limits()})
        limits = report.limits[part.split]
        if part.split == "train":
            encoded, schema = self._taught(rows, limits, report.lengths), TAUGHT_ROW
        else:
            encoded, schema = self._asked(rows, limits), ASKED_ROW
        return pa.RecordBatch.from_pylist(encoded, schema=schema), report

    def _taught(
        self, rows: list[dict[str, Any]], limits: Limits, lengths: Counter[tuple[str, int]]
    ) -> list[dict[str, Any]]:
        """Encode train questions: all their targets."""
        self._count_written(rows, limits, None)
        samples = self._encoder.samples(rows)
        for each in samples:
            limits.add_read(self.window, each)
            limits.add_reasoned(each, self._job.reasoning_tokens)
            lengths.update(_lengths(each))
        return [{"samples": list(map(to_row, each))} for each in samples]

    def _asked(self, rows: list[dict[str, Any]], limits: Limits) -> list[dict[str, Any]]:
        """Encode validation or test questions: their prompts, and the options as answers."""
        self._count_written(rows, limits, self._job.max_tokens)
        prompts = self._encoder.prompts(rows)
        reasoning: Sequence[Sample | None] = [None] * len(rows)
        if self._job.settings.reasons:
            reasoning = self._encoder.prompts(rows, REASONING)
        drafts = iter(self._encoder.answers([text for row in rows for text in row["options"]]))
        encoded = []
        for row, prompt, reasoned in zip(rows, prompts, reasoning, strict=True):
            own = [next(drafts) for _ in row["options"]]
            asked = Asked(prompt, reasoned, own, row["options"], row["answer"])
            answers = [with_room(prompt, self._job.max_tokens)]
            answers += with_drafts(prompt, own, shared=True)
            if reasoned:
                room = asked.reasoning_room(self._job.reasoning_tokens)
                answers.append(with_room(reasoned, room))
            limits.add_read(self.window, answers, RESERVED)
            samples = {"prompt": to_row(prompt), "reasoning": reasoned and to_row(reasoned)}
            encoded.append(asked._asdict() | samples)
        return encoded

    def _count_written(
        self, rows: list[dict[str, Any]], limits: Limits, max_tokens: int | None
    ) -> None:
        """Count the questions whose answers or options the student cannot write."""
        texts = list(dict.fromkeys(t for row in rows for t in row["options"] or [row["answer"]]))
        tokens = self._encoder.targets(texts)
        decoded = zip(map(len, tokens), decode(self._tokenizer, tokens), strict=True)
        written = dict(zip(texts, decoded, strict=True))
        for row in rows:
            limits.add_written(row, written, max_tokens)


def encode_splits(job: Job, processes: int | None = None) -> tuple[Report, Window]:
    """Write the tokens of all splits of `distill`, with `processes` (as many as cores and work).

    The files do not depend on the number of processes. Memory holds some parts. Raises `UserError`
    if options and answer of a question are longer than what the student reads.
    """
    parts = {split: list(_parts(split)) for split in SPLITS}
    count = sum(map(len, parts.values()))
    processes = processes or max(1, min(len(psutil.Process().cpu_affinity()), count // PARTS))
    encoder = _PartEncoder(job)
    total = Report({split: Limits() for split in SPLITS})
    questions = sum(part.size for each in parts.values() for part in each)
    with (
        tables.whole_folder(tables.ENCODED) as folder,
        _mapping(encoder, job, processes) as encode,
        tqdm(total=questions, desc="encode", unit="question", file=sys.stderr) as bar,
    ):
        for split, of_split in parts.items():
            schema = TAUGHT_ROW if split == "train" else ASKED_ROW
            with pa.ipc.new_stream(str(folder / encoded_file(split).name), schema) as file:
                for batch, report in encode(of_split):
                    file.write_batch(batch)
                    total.limits[split].add(report.limits[split])
                    total.lengths += report.lengths
                    bar.update(len(batch))
            total.limits[split].check(split)
        _write_lengths(folder / tables.LENGTHS.name, total.lengths, job.teachers)
        window = json.dumps(asdict(encoder.window), indent=2) + "\n"
        (folder / WINDOW.name).write_text(window, encoding="utf-8")
    return total, encoder.window


def _write_lengths(path: Path, lengths: Counter[tuple[str, int]], teachers: Iterable[str]) -> None:
    """Write how many train texts have each length, kind by kind."""
    kinds = ["context", "answer", *map(_rationale_of, teachers), "salient words"]
    ordered = sorted(lengths, key=lambda each: (kinds.index(each[0]), each[1]))
    with tables.TableWriter(path, tables.SCHEMAS[tables.LENGTHS]) as table:
        for text, tokens in ordered:
            table.write({"text": text, "tokens": tokens, "rows": lengths[text, tokens]})


def _lengths(samples: Sequence[Sample]) -> Iterator[tuple[str, int]]:
    """Yield kind and tokens of each text of a train question; targets without end-of-text."""
    names = {ANSWER: "answer", SALIENCY: "salient words"}
    yield "context", len(samples[0].context)
    for sample in samples:
        for branch in sample.branches:
            if branch.score is None:
                kind = names.get(branch.task) or _rationale_of(branch.task)
                yield kind, len(branch.target) - 1


def _rationale_of(teacher: str) -> str:
    return f"rationale of {teacher}"


def _parts(split: str) -> Iterator[_Part]:
    for file, group, rows in tables.row_groups(tables.distill_table(split)):
        for start in range(0, rows, files.PART):
            yield _Part(split, file, group, start, min(files.PART, rows - start))


@lru_cache(maxsize=1)  # a process encodes one part after the other
def _read_group(file: Path, number: int) -> pa.Table:
    return tables.read_row_group(file, number)


Encoded = Iterator[tuple[pa.RecordBatch, Report]]


@contextmanager
def _mapping(
    encoder: _PartEncoder, job: Job, processes: int
) -> Iterator[Callable[[list[_Part]], Encoded]]:
    """Yield a function that encodes parts in their order, in this process or in several."""
    if processes == 1:
        yield lambda parts: map(encoder, parts)
        return
    context = get_context("spawn")  # a fork could inherit locks that another thread holds
    with ProcessPoolExecutor(processes, context, _start_worker, (job,)) as workers:
        try:
            yield lambda parts: workers.map(_encode_part, parts)
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


_own_encoder: _PartEncoder  # of a worker


def _start_worker(job: Job) -> None:
    """Prepare a process: it has one core, and ends with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent's to handle
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    global _own_encoder
    _own_encoder = _PartEncoder(job)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _encode_part(part: _Part) -> tuple[pa.RecordBatch, Report]:
    return _own_encoder(part)
