"""What the student writes: direct answers, and rationales with answers after them."""

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from stages.distil.encoding.encoder import decode
from stages.distil.encoding.files import Asked
from stages.distil.encoding.samples import Sample, Window
from stages.distil.language.answers import is_correct
from stages.distil.language.student_prompts import split_reasoned
from stages.distil.models.batching import in_parts
from stages.distil.models.generation import Sampling, Writing, continue_texts
from stages.distil.models.hardware import device, pass_tokens
from stages.distil.models.loading import fused_attention
from stages.distil.student.batch import autocast

INFERENCE_TOKENS = 8192  # of a pass without gradients, on a CPU
REASONING_TOKENS = 32_768  # likewise, of a pass that writes rationales
FIRST_TURN = 64  # tokens
PART = 16_384  # questions that are answered, and held, at once; batches are formed within a part


class StudentModel(NamedTuple):
    """A student that can answer; `dtype` is the precision, `bfloat16` or `float32`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: str

    def pass_tokens(self, on_cpu: int = INFERENCE_TOKENS) -> int:
        """Return the token budget of a pass without gradients."""
        return pass_tokens("auto", on_cpu, self.model, held=None)


def generate_answers(
    student: StudentModel, prompts: Sequence[Sample], max_tokens: int
) -> list[str]:
    """Return the student's greedy text for each prompt of `Window.fit_prompt`, in their order."""
    return decode(student.tokenizer, continue_prompts(student, prompts, max_tokens))


def continue_prompts(
    student: StudentModel,
    prompts: Sequence[Sample],
    max_tokens: int,
    batch_tokens: int = INFERENCE_TOKENS,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Return the tokens of these texts, without end-of-text; with `sampling`, they are drawn."""
    model, tokenizer, dtype = student
    padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    groups: dict[tuple[int, ...], list[int]] = {}  # an encoder-decoder's text begins with a prefix
    for number, prompt in enumerate(prompts):
        prefix = prompt.branches[0].prefix if model.config.is_encoder_decoder else []
        groups.setdefault(tuple(prefix), []).append(number)
    texts: list[list[int]] = [[] for _ in prompts]
    training = model.training
    model.eval()
    for start, numbers in groups.items():
        ids = [
            p.context if model.config.is_encoder_decoder else p.context + p.branches[0].prefix
            for p in (prompts[number] for number in numbers)
        ]
        draws = sampling and sampling._replace(seeds=[sampling.seeds[n] for n in numbers])
        writing = Writing(max_tokens, padding, tokenizer.eos_token_id, start, draws)
        with autocast(dtype):
            written = continue_texts(model, ids, writing, student.pass_tokens(batch_tokens))
        for number, tokens in zip(numbers, written, strict=True):
            end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else None
            texts[number] = tokens[:end]
    model.train(training)
    return texts


class AnswerLengths(NamedTuple):
    """The most tokens that a student writes: of a direct answer, and of a rationale and its answer.

    They are `evaluate.max_tokens` and `evaluate.reasoning_tokens`.
    """

    direct: int
    reasoned: int


class Reasoned(NamedTuple):
    """What a student writes that reasons first: its rationale, and what it answers.

    `answer` is None if the text gives none; `written` are the tokens of the whole text.
    """

    reasoning: str
    answer: str | None
    written: list[int]

    def is_correct(self, question: Asked) -> bool:
        """Return whether it answers the question correctly; a text without an answer does not."""
        return self.answer is not None and is_correct(self.answer, question._asdict())


def reason(
    student: StudentModel,
    questions: Sequence[Asked],
    window: Window,
    max_tokens: int,
    sampling: Sampling | None = None,
) -> list[Reasoned]:
    """Return the student's rationale for each question, and the answer after it.

    The text is the most probable one; with `sampling`, it is drawn. `as_served` makes it faster.
    """
    prompts = [
        window.fit_prompt(question.reasoning, question.reasoning_room(max_tokens))
        for question in questions
        if question.reasoning
    ]
    return read_reasoned(student, _write_in_turns(student, prompts, max_tokens, sampling))


def _write_in_turns(
    student: StudentModel,
    prompts: Sequence[Sample],
    max_tokens: int,
    sampling: Sampling | None,
) -> list[list[int]]:
    """Return the tokens of long texts, without end-of-text.

    A batch takes as long as its longest text. So texts that do not end within a turn go on in the
    next one, without the others; a turn is as long as all before it.
    """
    texts: list[list[int]] = [[] for _ in prompts]
    unfinished = list(range(len(prompts)))
    done = 0
    while unfinished and done < max_tokens:
        turn = min(max(done, FIRST_TURN), max_tokens - done)
        if student.model.config.is_encoder_decoder:  # a batch of it begins with the same tokens
            turn = max_tokens
        asked = [
            prompts[n].with_branch(prefix=prompts[n].branches[0].prefix + texts[n])
            for n in unfinished
        ]
        draws = sampling and Sampling(
            sampling.temperature, [sampling.seeds[n] for n in unfinished], done
        )
        written = continue_prompts(student, asked, turn, REASONING_TOKENS, draws)
        for n, tokens in zip(unfinished, written, strict=True):
            texts[n] += tokens
        done += turn
        unfinished = [n for n in unfinished if len(texts[n]) == done]
    return texts


def read_reasoned(student: StudentModel, written: Sequence[list[int]]) -> list[Reasoned]:
    """Return rationale and answer of each text that the student wrote, from its tokens."""
    texts = map(split_reasoned, decode(student.tokenizer, written))
    return [Reasoned(*text, tokens) for text, tokens in zip(texts, written, strict=True)]


def as_served(student: StudentModel) -> StudentModel:
    """Return a copy with weights of the passes' precision, which writes faster on a CPU.

    There, the time of a long text is that of reading the weights once for each token. Training
    keeps them in float32, and its plain attention copies all keys and values for each token too.
    Buffers, such as the frequencies of rotary positions, keep their precision.
    """
    sharded = any(isinstance(weight, DTensor) for weight in student.model.parameters())
    if device() != "cpu" or sharded:
        return student
    model = deepcopy(student.model)
    for weight in model.parameters():
        weight.data = weight.data.to(getattr(torch, student.dtype))
    model.set_attn_implementation(fused_attention(model))
    return student._replace(model=model)


def count_correct(
    student: StudentModel,
    questions: Sequence[Asked],
    numbers: range,
    window: Window,
    lengths: AnswerLengths,
) -> int:
    """Return how many questions of these numbers the student answers correctly, by its text.

    It reasons first if it has learnt to. Memory holds PART of the questions.
    """
    correct = 0
    for part in in_parts(numbers, PART):
        asked = [questions[n] for n in part]
        if asked[0].reasoning:
            reasoned = reason(as_served(student), asked, window, lengths.reasoned)
            correct += sum(r.is_correct(q) for r, q in zip(reasoned, asked, strict=True))
            continue
        prompts = [window.fit_prompt(q.prompt, lengths.direct) for q in asked]
        texts = generate_answers(student, prompts, lengths.direct)
        answered = zip(texts, asked, strict=True)
        correct += sum(is_correct(text, question._asdict()) for text, question in answered)
    return correct
