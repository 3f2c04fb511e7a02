"""Tiny students, rows of `distill` for them, and the samples and losses that they make of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainingArguments

from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.files import Asked
from stages.distil.encoding.samples import Sample, fit_targets, of_tasks, with_drafts
from stages.distil.interface.method import REASONING, Student, Train
from stages.distil.models.loading import load_model
from stages.distil.storage import tables
from stages.distil.student.answering import AnswerLengths, StudentModel
from stages.distil.student.batch import Batch, Collator
from stages.distil.student.losses import CrossEntropy, Loss, predict
from stages.distil.student.training import DistillationTrainer, Steps, TrainingData, TrainingSetup

TEACHERS = ["one", "two"]
WEIGHTS = {"answer": 1.0, "one": 0.5, "two": 0.25, "saliency": 0.7}
TASKS = list(WEIGHTS)
LOSSES = [CrossEntropy(task) for task in TASKS]
OBJECTIVE = tuple((CrossEntropy(task), weight) for task, weight in WEIGHTS.items())
MUCH = 10_000  # tokens of a pass that takes all questions


def row(number: int, rationales: dict[str, str], saliency: list[str], options=()) -> dict:
    """Return a row of `distill`; a higher number is a longer question."""
    return {
        "id": str(number),
        "question": f"what is {number}" + " and more" * number,
        "options": list(options),
        "answer": "green" * (1 + number % 2),
        "rationales": [{"teacher": t, "text": x, "status": "ok"} for t, x in rationales.items()],
        "saliency": saliency,
    }


ROWS = [
    row(1, {"one": "because it is so", "two": "why not"}, ["what", "1"]),
    row(4, {"two": "for a reason that is somewhat longer"}, [], ("red", "green")),
    row(2, {}, ["is"]),
    row(3, {"one": "x"}, ["more", "and", "3"]),
]


def write_distill(split: str, rows: Iterable[dict], scores: bool = False) -> None:
    """Write a split of `distill` in the current folder, with option scores if asked for."""
    schema = tables.with_scores(tables.SCHEMAS[tables.DISTILL], scores)
    with tables.TableWriter(tables.distill_table(split) / "00000.parquet", schema) as table:
        for each in rows:
            table.write(each)


def load(folder: Path, **settings) -> tuple[StudentModel, Encoder]:
    """Return a student in float32, and its encoder with these settings of `student`."""
    model, tokenizer = load_model(folder, "float32")
    encoder = Encoder(model.config, tokenizer, Student(model="tiny", **settings), TEACHERS)
    return StudentModel(model, tokenizer, "float32"), encoder


def taught(encoder: Encoder, row: dict, tasks: Sequence[str] = TASKS) -> list[Sample]:
    """Return the samples of a row with targets of these tasks that fit, as a training reads it."""
    [samples] = encoder.samples([row])
    return fit_targets(of_tasks(samples, tasks), encoder.window)


def all_taught(encoder: Encoder, rows: Sequence[dict] = ROWS) -> list[Sample]:
    """Return the samples of all rows."""
    return [sample for row in rows for sample in taught(encoder, row)]


def prompt_of(encoder: Encoder, row: dict, max_tokens: int) -> Sample:
    """Return the prompt for a row's answer, cut so that so many tokens fit after it."""
    [prompt] = encoder.prompts([row])
    return encoder.window.fit_prompt(prompt, max_tokens)


def options_of(encoder: Encoder, row: dict, shared: bool = True) -> list[Sample]:
    """Return samples with each option as the answer, as the evaluation reads them."""
    [prompt] = encoder.prompts([row])
    drafts = encoder.answers(row["options"])
    return [encoder.window.fit(sample) for sample in with_drafts(prompt, drafts, shared)]


def asked(encoder: Encoder, rows: Sequence[dict], reasons: bool = False) -> list[Asked]:
    """Return rows as questions that a student answers, which `reasons` first or does not."""
    reasoning = encoder.prompts(rows, REASONING) if reasons else [None] * len(rows)
    return [
        Asked(prompt, how, encoder.answers(row["options"]), row["options"], row["answer"])
        for row, prompt, how in zip(rows, encoder.prompts(rows), reasoning, strict=True)
    ]


def without_dropout(model: PreTrainedModel) -> None:
    """Set dropout to 0, which would draw differently in each pass."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0


def loss_sums(model: PreTrainedModel, batch: Batch, losses: Sequence[Loss] = LOSSES) -> Tensor:
    """Return the sum of each loss over a batch, (L,)."""
    predicted = predict(model, batch, with_logits=any(loss.needs_logits for loss in losses))
    return torch.stack([loss(predicted) for loss in losses])


def make_steps(
    student: StudentModel,
    questions: Sequence[Sequence[Sample]],
    losses: Sequence[Loss] = LOSSES,
    batch_tokens: int = MUCH,
    batch_size: int = 4,
) -> Steps:
    """Return the steps of an epoch."""
    settings = Train(epochs=1, learning_rate=0.1, batch_size=batch_size)
    collate = Collator(student.model, student.tokenizer)
    return Steps(questions, collate, losses, settings, batch_tokens, seed=0)


def learn(
    student: StudentModel,
    questions: Sequence[Sequence[Sample]],
    objective: Sequence[tuple[Loss, float]] = OBJECTIVE,
    batch_tokens: int = MUCH,
    batch_size: int = 4,
) -> tuple[float, Tensor]:
    """Return the loss and the gradient that the Trainer computes, added up over an epoch's steps.

    The weights stay as they are, and nothing is dropped out.
    """
    without_dropout(student.model)
    losses = [loss for loss, _ in objective]
    steps = make_steps(student, questions, losses, batch_tokens, batch_size)
    trainer = DistillationTrainer(
        model=student.model,
        args=TrainingArguments("unused", use_cpu=True, report_to="none"),
        train_dataset=steps,
        processing_class=student.tokenizer,
        data=TrainingData(questions, [], None, 0, 0, ""),
        setup=TrainingSetup(None, tuple(objective), 0, AnswerLengths(1, 1), student.dtype, ""),
        batch_tokens=batch_tokens,
    )
    student.model.zero_grad()
    total = sum(trainer.training_step(student.model, step).item() for step in steps)
    return total, gradients(student.model)


def gradients(model: PreTrainedModel) -> Tensor:
    """Return the gradients of all weights as a vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def memorise(
    folder: Path, shared_context: bool, form: str = "branch", known: dict = ROWS[0], **settings
) -> tuple[StudentModel, Encoder]:
    """Load a student and train it until it knows all targets of a row."""
    settings |= {"shared_context": shared_context, "form": form}
    student, encoder = load(folder, **settings)
    batch = Collator(student.model, student.tokenizer)(taught(encoder, known))
    optimiser = torch.optim.Adam(student.model.parameters(), lr=3e-3)
    for _ in range(150):
        optimiser.zero_grad()
        loss_sums(student.model, batch).sum().backward()
        optimiser.step()
    return student, encoder
