"""The student's answers and options, and its words and rationales beside their targets."""

import sys
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from stages.distil.encoding.encoder import decode
from stages.distil.encoding.files import Asked
from stages.distil.encoding.samples import Sample, Window, separate_tasks, with_drafts, with_room
from stages.distil.evaluation.statistics import f1
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import SALIENCY
from stages.distil.language.answers import normalise
from stages.distil.language.student_prompts import split_reasoned
from stages.distil.models.batching import by_length
from stages.distil.models.layers import attention_span
from stages.distil.student.answering import StudentModel, generate_answers
from stages.distil.student.batch import Batch, Collator, autocast, target_values


class ReadOption(NamedTuple):
    """An option as the student reads it.

    `score` is the mean log-probability of its tokens; `greedy` tells whether it is the student's
    greedy text: each of its tokens, and the end-of-text after them, is the most probable one.
    """

    score: float
    greedy: bool


def answer_questions(
    student: StudentModel,
    questions: Sequence[Asked],
    window: Window,
    max_tokens: int,
    shared_context: bool,
) -> list[tuple[str, list[float]]]:
    """Return the student's greedy text for each question, and the score of each option.

    The options are drafts of the text, as in speculative decoding (Leviathan et al., 2023): one
    pass reads a question with all of them (without `shared_context`, with one of them), and a text
    is written token by token only where it is none of them. A text has at most `max_tokens` tokens.
    """
    prompts = [window.fit_prompt(question.prompt, max_tokens) for question in questions]
    samples = [
        [window.fit(s) for s in with_drafts(question.prompt, question.drafts, shared_context)]
        for question in questions
    ]
    read = read_options(student, samples)
    texts: dict[int, str] = {}
    for n, (prompt, sample) in enumerate(zip(prompts, samples, strict=True)):
        branches = ((each.context, branch) for each in sample for branch in each.branches)
        for (context, branch), option in zip(branches, read[n], strict=True):
            whole = context == prompt.context  # not cut to leave room for a longer text
            if option.greedy and whole and len(branch.target) <= max_tokens:
                [texts[n]] = decode(student.tokenizer, [branch.target])
    others = [n for n in range(len(questions)) if n not in texts]
    written = generate_answers(student, [prompts[n] for n in others], max_tokens)
    texts |= dict(zip(others, written, strict=True))
    return [(texts[n], [option.score for option in read[n]]) for n in range(len(questions))]


@torch.no_grad()
def read_options(
    student: StudentModel, questions: Sequence[Sequence[Sample]]
) -> list[list[ReadOption]]:
    """Return what the student makes of each option, question by question.

    `questions` are samples with an option in each branch. Raises `UserError` if a log-probability
    is not finite.
    """
    questions = _readable(student.model, questions)
    samples = [s for of_question in questions for s in of_question]
    read: list[list[ReadOption]] = [[] for _ in samples]
    for chosen, batch, values in read_targets(student, samples):
        owners = (n for n in chosen for _ in samples[n].branches)
        for n, target in zip(owners, batch.targets, strict=True):
            tokens = slice(target.start, target.end)
            score = -values.losses[tokens][:-1].mean().item()
            read[n].append(ReadOption(score, bool(values.greedy[tokens].all())))
    by_sample = iter(read)
    return [
        [option for _ in of_question for option in next(by_sample)] for of_question in questions
    ]


class TokenValues(NamedTuple):
    """What a student makes of T target tokens, on the CPU.

    `losses` (T,) are their −log p; `greedy` (T,) tells which it would write itself, and `ranks`
    (T,) count from the most probable token, 1.
    """

    losses: Tensor
    greedy: Tensor
    ranks: Tensor


@torch.no_grad()
def read_targets(
    student: StudentModel, samples: Sequence[Sample]
) -> Iterator[tuple[list[int], Batch, TokenValues]]:
    """Read samples in batches by length; yield what the student makes of their targets.

    Yields the numbers of a batch's samples, the batch, and the values of its target tokens. Raises
    `UserError` if a log-probability is not finite.
    """
    model, tokenizer, dtype = student
    collate = Collator(model, tokenizer)
    model.eval()
    for chosen in by_length([sample.length for sample in samples], student.pass_tokens()):
        batch = collate([samples[n] for n in chosen]).to(model.device)
        with autocast(dtype):
            values = target_values(model, batch, _token_values)
        losses, greedy, ranks = values.cpu().T.contiguous()
        if not losses.isfinite().all():
            raise UserError(
                f"{model.name_or_path}: log-probabilities are not finite in {dtype}; set "
                "student.dtype to float32, or choose another model"
            )
        yield chosen, batch, TokenValues(losses, greedy.bool(), ranks)


def _token_values(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each label's loss, whether it is the most probable token, and its rank, (n, 3)."""
    own = logits.gather(1, labels[:, None])
    losses = functional.cross_entropy(logits, labels, reduction="none")
    ranks = (logits > own).sum(1) + 1
    return torch.stack([losses, logits.argmax(-1) == labels, ranks], dim=1)


def _readable(
    model: PreTrainedModel, questions: Sequence[Sequence[Sample]]
) -> Sequence[Sequence[Sample]]:
    """Return one sample per option if the model cannot read a question once for all of them.

    It cannot if a layer carries a state, or has a sliding window shorter than a sample.
    """
    shared = [s.length for of_question in questions for s in of_question if len(s.branches) > 1]
    if not shared or model.config.is_encoder_decoder or max(shared) <= attention_span(model):
        return questions
    return [separate_tasks(of_question) for of_question in questions]


class Explained(NamedTuple):
    """A train question with its targets: its whole samples, salient words, and rationales.

    `rationales` are pairs of a teacher and a text.
    """

    samples: list[Sample]
    words: list[str]
    rationales: list[tuple[str, str]]

    def targets(self, task: str) -> list[tuple[Sample, list[str]]]:
        """Return each target of a task: alone as a sample, and its words."""
        alone = [s for s in separate_tasks(self.samples) if s.branches[0].task == task]
        words = [normalise(text).split() for teacher, text in self.rationales if teacher == task]
        if task == SALIENCY:
            words = [list(map(normalise, self.words))] if self.words else []
        return list(zip(alone, words, strict=True))


def explanation_scores(
    student: StudentModel, questions: Sequence[Explained], teachers: Sequence[str], window: Window
) -> dict[str, Any]:
    """Measure how well the student repeats the salient words and rationales it was taught.

    Returns the mean F1 of the salient words, and of the words of each teacher's rationales, if
    there are any: `{"words": {"f1", "questions"}, "rationales": {teacher: {"f1", "questions"}}}`. A
    target that is too long for the student, which training left out, is not measured; stderr says
    how many are.
    """
    result: dict[str, Any] = {}
    if score := _repetition(student, questions, window, SALIENCY):
        result["words"] = score
    for teacher in teachers:
        if score := _repetition(student, questions, window, teacher):
            result.setdefault("rationales", {})[teacher] = score
    return result


def reasoning_scores(
    student: StudentModel,
    questions: Sequence[Explained],
    teachers: Sequence[str],
    window: Window,
    max_tokens: int,
) -> dict[str, Any]:
    """Measure the salient words and the reasoning of a student that reasons first.

    As `explanation_scores`, but the student writes one rationale, of at most `max_tokens` tokens
    with its answer; it is compared with the taught one that it is most like. The answer is left
    out: `{"words": …, "reasoning": {"f1", "questions"}}`.
    """
    result: dict[str, Any] = {}
    if score := _repetition(student, questions, window, SALIENCY):
        result["words"] = score
    samples, taught = [], []
    for question in questions:
        targets = [target for teacher in teachers for target in question.targets(teacher)]
        learnt = [(s, words) for s, words in targets if window.fit(s).branches]
        if learnt and window.fit(with_room(learnt[0][0], max_tokens, teachers[0])).branches:
            samples.append(learnt[0][0])
            taught.append([words for _, words in learnt])
    if taught:
        prompts = [window.fit_prompt(sample, max_tokens) for sample in samples]
        written = [split_reasoned(t)[0] for t in generate_answers(student, prompts, max_tokens)]
        scores = [
            max(f1(normalise(text).split(), words) for words in rationales)
            for text, rationales in zip(written, taught, strict=True)
        ]
        result["reasoning"] = {"f1": round(mean(scores), 6), "questions": len(scores)}
    return result


def _repetition(
    student: StudentModel, questions: Sequence[Explained], window: Window, task: str
) -> dict[str, Any] | None:
    """Compare what the student writes with the last target of a task of each question."""
    label, separator = f"rationales of {task}", None
    if task == SALIENCY:
        label, separator = "key words", ", "
    targets = [own[-1] for question in questions if (own := question.targets(task))]
    taught = [(s, words) for s, words in targets if window.fit(s).branches]
    longest = max((len(sample.branches[0].target) - 1 for sample, _ in taught), default=0)
    kept = [(s, words) for s, words in taught if window.fit(with_room(s, longest, task)).branches]
    if left := len(targets) - len(kept):
        count = f"{left} of {len(targets)}"
        print(f"{label}: {count} are too long for the student, not measured", file=sys.stderr)
    if not kept:
        return None
    prompts = [window.fit_prompt(sample, longest) for sample, _ in kept]
    written = generate_answers(student, prompts, longest)
    scores = [
        f1(normalise(text).split(separator), words)
        for text, (_, words) in zip(written, kept, strict=True)
    ]
    return {"f1": round(mean(scores), 6), "questions": len(scores)}
