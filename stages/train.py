"""Stage `train`: train the student on answers, rationales and salient words at once."""

import os
import random
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.distil.interface.command import is_main_process, run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.method import ANSWER, SALIENCY
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.paths import locate
from stages.distil.storage import tables

if TYPE_CHECKING:  # importing torch takes seconds
    from stages.distil.encoding.files import Asked
    from stages.distil.encoding.samples import Sample
    from stages.distil.student.answering import StudentModel
    from stages.distil.student.losses import Loss
    from stages.distil.student.training import CurveWriter

SPEED = Path("results/times/train")  # not a DVC output: times differ between runs
EXPLAINED = "a rationale that leads to the label (status ok), which teaches reasoning"
LAUNCHED = "TRAIN_LAUNCHED"  # environment variable set in the processes that `launch` starts


def train(parameters: Parameters) -> None:
    """Train the student; write its folder and the training curves."""
    tables.check_exists(tables.ENCODED)
    # Importing torch takes seconds, so a missing input is reported first.
    from stages.distil.models.hardware import use_one_gpu
    from stages.distil.models.resuming import remove_checkpoints
    from stages.distil.student.training import CHECKPOINTS

    use_one_gpu("train.accelerate=configs/gpus.yaml trains on all of them")
    student = _load_student(parameters)
    with ExitStack() as files:
        curves = _open_curves(files) if is_main_process() else None
        epoch, accuracy, state, left_out = _teach(student, parameters, curves)
        if curves is None:
            return
        best = {"best_epoch": epoch, "validation": {"accuracy": accuracy}}
        curves.losses.summary = best | {"too_long": left_out}
    if state is not None:
        del student  # before another one is loaded
        student = _load_student(parameters)
        frozen = student.model.state_dict() if parameters.student.lora_rank else {}
        student.model.load_state_dict(frozen | state)
    _save(student, parameters)
    remove_checkpoints(CHECKPOINTS)
    length = parameters.train
    ran = f"within {length.max_steps:,} steps" if length.max_steps else f"of {length.epochs}"
    print(f"best epoch {epoch} {ran}: validation accuracy {accuracy:.3f}")


def _load_student(parameters: Parameters) -> "StudentModel":
    from transformers import set_seed

    from stages.distil.models.hardware import precision
    from stages.distil.models.loading import load_model
    from stages.distil.models.lora import with_lora
    from stages.distil.student.answering import StudentModel
    from stages.distil.weights.folders import model_folder

    settings = parameters.student
    model, tokenizer = load_model(model_folder(settings.model), "float32", place=False)
    if settings.lora_rank:
        set_seed(parameters.training_seed)
        model = with_lora(model, settings.lora_rank)
    dtype = "bfloat16" if settings.weights == "bfloat16" else settings.dtype
    return StudentModel(model, tokenizer, precision(dtype))


def _open_curves(files: ExitStack) -> "CurveWriter":
    """Start new files of curves in place of the old ones; `files` closes them."""
    from dvclive import Live

    from stages.distil.student.training import CurveWriter

    lives = []
    for folder in (tables.TRAINING, SPEED):
        shutil.rmtree(folder, ignore_errors=True)
        live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, monitor_system=False)
        lives.append(files.enter_context(live))
    return CurveWriter(*lives)


def _teach(
    student: "StudentModel", parameters: Parameters, curves: "CurveWriter | None"
) -> tuple[int, float, dict[str, Any] | None, dict[str, int]]:
    """Train the student, or measure it if there is nothing to train.

    Returns the best epoch, its validation accuracy, the weights to load if they are not in the
    student, and how many questions were cut and targets left out.
    """
    from torch.utils.data import Subset

    from stages.distil.encoding.files import (
        read_asked,
        read_taught,
        read_window,
        training_digest,
    )
    from stages.distil.encoding.samples import SOFT_LABELS
    from stages.distil.models.hardware import device
    from stages.distil.student.answering import AnswerLengths, count_correct
    from stages.distil.student.training import TrainingData, TrainingSetup, survey, train_student
    from stages.distil.weights.folders import fingerprint, model_folder

    window, asked = read_window(), _some(read_asked("validation"), parameters)
    lengths = AnswerLengths(parameters.evaluate.max_tokens, parameters.evaluate.reasoning_tokens)
    losses = _objective(parameters)
    tasks = {task for loss, _ in losses for task in loss.tasks}
    found = survey(read_taught(window), tasks, window)
    too_long = found.limits.shortened
    if any(too_long.values()):
        print(f"longer than {window.limit} tokens: {too_long}", file=sys.stderr)
    # A task without a single target, such as that of a teacher that was left out, has no loss.
    objective = tuple((loss, w) for loss, w in losses if found.tasks.intersection(loss.tasks))
    if parameters.soft_labels.teacher and SOFT_LABELS not in found.tasks:
        raise UserError("soft_labels.teacher: data/encoded has no option scores; run `dvc repro`")
    if not found.numbers and not parameters.student.reasons:
        raise UserError("data/encoded: no train question has a target that the student can learn")
    if parameters.train.epochs == 0:
        student.model.to(device())
        correct = count_correct(student, asked, range(len(asked)), window, lengths)
        return 0, correct / len(asked), None, too_long
    settings = parameters.student
    if settings.reasons and not found.explained:
        raise UserError(
            f"data/encoded: no train question has {EXPLAINED}; take other teachers, or set "
            "student.form to branch"
        )
    folder = model_folder(settings.model)
    identity = repr([fingerprint(parameters.models[settings.model], folder), settings])
    setup = TrainingSetup(
        parameters.train,
        objective,
        parameters.training_seed,
        lengths,
        student.dtype,
        identity,
        settings.weights,
    )
    taught: Sequence[list[Sample]] = read_taught(window, found.tasks)
    if settings.reasons and found.explained < len(taught):
        print(f"{found.explained:,} of {len(taught):,} train questions have {EXPLAINED}")
    if len(found.numbers) < len(taught):
        taught = Subset(taught, found.numbers)
    data = TrainingData(taught, asked, window, found.longest, found.most_tokens, training_digest())
    return *train_student(student, data, setup, curves), too_long


def _some(asked: "Sequence[Asked]", parameters: Parameters) -> "Sequence[Asked]":
    """Return the validation questions that are asked after each epoch."""
    from torch.utils.data import Subset

    size = parameters.train.validation
    if size is None or size >= len(asked):
        return asked
    draw = random.Random(f"validation {parameters.training_seed}")
    return Subset(asked, sorted(draw.sample(range(len(asked)), size)))


def _objective(parameters: Parameters) -> "list[tuple[Loss, float]]":
    """Return the losses with a weight above 0, in the order of their curves."""
    from stages.distil.student.losses import (
        CrossEntropy,
        MutualInformation,
        ReasonedAnswer,
        SoftCrossEntropy,
    )

    teachers, soft_labels = parameters.teachers, parameters.soft_labels
    taught = tuple(t for t in teachers if parameters.teacher_weight(t))
    direct = 1.0 if parameters.student.direct else 0.0
    losses: list[tuple[Loss, float]] = [(CrossEntropy(ANSWER), direct)]
    losses += [(CrossEntropy(teacher), parameters.teacher_weight(teacher)) for teacher in taught]
    losses.append((ReasonedAnswer(taught), parameters.train.reasoned_answer))
    losses.append((CrossEntropy(SALIENCY), parameters.saliency.weight))
    if soft_labels.teacher:
        losses.append((SoftCrossEntropy(soft_labels.temperature), soft_labels.weight))
    losses.append((MutualInformation(taught), parameters.train.mutual_information))
    return [(loss, weight) for loss, weight in losses if weight > 0]


def _save(student: "StudentModel", parameters: Parameters) -> None:
    """Write the student's folder, with the template and the settings that it is served with."""
    import torch

    from stages.distil.student.export import configure_inference
    from stages.distil.weights.architecture import check_finite
    from stages.distil.weights.folders import STUDENT, save_model

    model, tokenizer, _ = student
    if parameters.student.lora_rank:
        model = model.merge_and_unload()
    settings, evaluate = parameters.student, parameters.evaluate
    max_tokens = evaluate.reasoning_tokens if settings.reasons else evaluate.max_tokens
    configure_inference(model, tokenizer, settings, max_tokens)
    model = model.to(torch.bfloat16)
    check_finite(model.named_parameters(), STUDENT, "lower train.learning_rate")
    with tables.whole_folder(STUDENT) as target:
        save_model(model, tokenizer, target)


def launch(parameters: Parameters) -> None:
    """Replace this process with accelerate's launcher if `train.accelerate` names a file.

    A process that a launcher has started (torchrun, Slurm, Ray) has a RANK, and starts no other.
    MACHINE_RANK numbers a machine, so that all machines have the same file.
    """
    configuration = parameters.train.accelerate
    if configuration is None or LAUNCHED in os.environ or "RANK" in os.environ:
        return
    file = locate(configuration)
    if not file.is_file():
        raise UserError(
            f"train.accelerate: {configuration}: no such file; `.venv/bin/accelerate config "
            f"--config_file {configuration}` writes one"
        )
    from ruamel.yaml import YAML

    from stages.distil.weights.architecture import load_config
    from stages.distil.weights.folders import model_folder

    values = YAML(typ="safe").load(file)
    folder = model_folder(parameters.student.model)
    if values.get("distributed_type") == "FSDP":
        if load_config(folder).is_encoder_decoder:
            raise UserError(
                f"train.accelerate: {configuration}: FSDP cannot shard an encoder-decoder, whose "
                "two parts share their embeddings; use distributed_type: MULTI_GPU"
            )
        if parameters.student.weights == "bfloat16":
            raise UserError(
                f"train.accelerate: {configuration}: FSDP trains float32 weights, and computes in "
                "bfloat16; set student.weights to float32"
            )
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(file)]
    if machine := os.environ.get("MACHINE_RANK"):
        launcher += ["--machine_rank", machine]
    command = [sys.executable, *launcher, "-m", "stages.train", *sys.argv[1:]]
    os.execve(sys.executable, command, os.environ | {LAUNCHED: "yes"})


if __name__ == "__main__":
    run_stage(train, __doc__, launch=launch)
