"""Training speed with shared contexts compared with one padded pass per task.

All runs train the same student on the same rows with the same Trainer and the same global batch.
Run from the project's folder after `make repro`:
    stages/python -m benchmarks.train [--data ../shared/datasets/arc] [--rows 128]
The last line is a JSON object. `vs_separate` is the ratio of questions per second to one padded
pass per task with logits at every position, as in the papers' code. In `vs_separate_targets` that
loop, too, computes logits at targets only, so that the ratio is due to the shared context alone.
`loss_difference` is the largest relative difference of a step's loss, `useful_token_share` the
share of computed tokens that are not padding.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from stages.distil.encoding.encoder import Encoder
from stages.distil.encoding.samples import Sample, fit_targets, of_tasks, separate_tasks
from stages.distil.interface.errors import report_errors
from stages.distil.interface.method import ANSWER, SALIENCY, Student, Train
from stages.distil.language.student_prompts import question_text
from stages.distil.language.words import find_words
from stages.distil.models.hardware import device, precision
from stages.distil.models.loading import load_model
from stages.distil.student.answering import AnswerLengths
from stages.distil.student.batch import Collator
from stages.distil.student.losses import CrossEntropy
from stages.distil.student.training import (
    BATCH_TOKENS,
    DistillationTrainer,
    Steps,
    TrainingData,
    TrainingSetup,
)
from stages.distil.weights.folders import model_folder

BATCH = 8


def distilled(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Read questions with all targets; the first words serve as salient words."""
    questions = []
    with (folder / "train.jsonl").open(encoding="utf-8") as file:
        for _, line in zip(range(rows), file, strict=False):
            record = json.loads(line)
            question, options = record["question"], record["options"]
            text = question_text(question, options)
            words = find_words(text, [(0, len(question))])[:5]
            questions.append(
                {
                    "id": record["id"],
                    "question": question,
                    "options": options,
                    "answer": record["answer"],
                    "rationales": [
                        {"teacher": name, "text": rationale, "status": "ok"}
                        for name, rationale in record["rationales"].items()
                    ],
                    "saliency": [text[start:end] for start, end in words],
                }
            )
    return questions


class OnePassPerTask(Steps):
    """As in the papers: a padded pass over all questions for each task."""

    def batches(self, groups: Sequence[Sequence[Sample]]) -> list[list[Sample]]:
        """Return a batch for each task."""
        by_task: dict[str, list[Sample]] = {}
        for sample in separate_tasks(sample for group in groups for sample in group):
            by_task.setdefault(sample.branches[0].task, []).append(sample)
        return list(by_task.values())


@contextmanager
def every_logit(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """Replace `logits_at`: compute all logits, as a model's own loss does, then select."""
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, __, logits: logits[positions][None])
    try:
        yield
    finally:
        hook.remove()


class Timed(DistillationTrainer):
    """Records the loss and the seconds of each step."""

    def training_step(self, *arguments: Any) -> Tensor:
        """Take a step."""
        start = time.perf_counter()
        loss = super().training_step(*arguments)
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())
        return loss


def train(kind: type[Steps], student: str, rows: list[dict[str, Any]], settings: Train) -> Timed:
    """Train one epoch. `main` leaves out the first step, which is slow in every process."""
    model, tokenizer = load_model(model_folder(student), "float32", place=False)
    teachers = [rationale["teacher"] for rationale in rows[0]["rationales"]]
    weights = {ANSWER: 1.0} | dict.fromkeys(teachers, 0.5) | {SALIENCY: 0.1}
    objective = tuple((CrossEntropy(task), weight) for task, weight in weights.items())
    setup = TrainingSetup(settings, objective, 0, AnswerLengths(1, 1), precision("auto"), "")
    encoder = Encoder(model.config, tokenizer, Student(model=student), teachers)
    window = encoder.window
    samples = [fit_targets(of_tasks(each, weights), window) for each in encoder.samples(rows)]
    collate = Collator(model, tokenizer)
    steps = kind(samples, collate, setup.losses, settings, BATCH_TOKENS, 0)
    return train_epoch(model, tokenizer, steps, setup, TrainingData(samples, [], window, 0, 0, ""))


def train_epoch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    steps: Steps,
    setup: TrainingSetup,
    data: TrainingData,
    **more: Any,
) -> Timed:
    """Train on the steps of one epoch; `more` are further arguments of the Trainer's."""
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=1,
                learning_rate=setup.settings.learning_rate,
                optim=setup.settings.optimizer,
                save_strategy="no",
                use_cpu=device() == "cpu",
                disable_tqdm=True,
                report_to="none",
                **more,
            ),
            train_dataset=steps,
            processing_class=tokenizer,
            data=data,
            setup=setup,
            batch_tokens=BATCH_TOKENS,
        )
        trainer.seconds, trainer.losses = [], []
        trainer.train()
    return trainer


def useful_share(steps: Steps) -> float:
    """Return the share of the tokens of all passes that are not padding."""
    passes = [batch for n in range(len(steps)) for batch in steps[n]["passes"]]
    useful = sum(sample.length for samples in steps.questions for sample in samples)
    return useful / sum(batch.inputs["input_ids"].numel() for batch in passes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets/arc"))
    parser.add_argument("--rows", type=int, default=128, help="(%(default)s)")
    parser.add_argument("--student", default="smollm2-135m", help="(%(default)s)")
    arguments = parser.parse_args()
    if not (file := arguments.data / "train.jsonl").is_file():
        parser.error(f"{file}: no such file; expected questions as in docs/data.md")
    rows = distilled(arguments.data, arguments.rows)
    settings = Train(epochs=1, learning_rate=3e-4, batch_size=BATCH)
    shared = train(Steps, arguments.student, rows, settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    targets = train(OnePassPerTask, arguments.student, rows, settings)
    with patch("stages.distil.student.batch.logits_at", every_logit):
        separate = train(OnePassPerTask, arguments.student, rows, settings)
    runs = {"shared": shared, "separate": separate, "separate, targets only": targets}
    print(", ".join(f"{name} {sum(run.seconds[1:]):.1f} s" for name, run in runs.items()))
    pairs = zip(shared.losses * 2, separate.losses + targets.losses, strict=True)
    result = {
        "vs_separate": round(sum(separate.seconds[1:]) / sum(shared.seconds[1:]), 2),
        "vs_separate_targets": round(sum(targets.seconds[1:]) / sum(shared.seconds[1:]), 2),
        "loss_difference": float(f"{max(abs(a - b) / b for a, b in pairs):.2g}"),
        "useful_token_share": round(useful_share(shared.train_dataset), 3),
        "peak_memory_mb": peak,
        "rows": len(rows),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    sys.exit(report_errors("train", debug=False, action=main))
