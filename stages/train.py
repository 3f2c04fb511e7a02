"""Stage `train`: train the student on answers, rationales and salient words at once."""

import os
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stages.distil.interface.command import is_main_process, run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.paths import locate
from stages.distil.storage import tables

CURVES = Path("results/train")
LAUNCHED = "TRAIN_LAUNCHED"  # environment variable set in the processes that `launch` starts


def train(parameters: Parameters) -> None:
    """Train the student; write its folder and the training curves."""
    for split in ("train", "validation"):
        tables.check_exists(tables.distill_table(split))
    # Importing torch takes seconds, so a missing input is reported first.
    import torch
    from dvclive import Live
    from transformers import set_seed

    from stages.distil.encoding.questions import encode_questions, remove_encoded
    from stages.distil.models.hardware import device, precision, use_one_gpu
    from stages.distil.models.loading import load_model
    from stages.distil.models.lora import with_lora
    from stages.distil.models.resuming import remove_checkpoints
    from stages.distil.student.answering import count_correct
    from stages.distil.student.export import configure_inference
    from stages.distil.student.samples import (
        ANSWER,
        MUTUAL_INFORMATION,
        NO_RATIONALE,
        SALIENCY,
        SOFT_LABELS,
        Encoder,
    )
    from stages.distil.student.trainer import Recipe
    from stages.distil.student.training import CHECKPOINTS, train_student
    from stages.distil.weights.architecture import check_finite
    from stages.distil.weights.folders import (
        STUDENT,
        fingerprint,
        model_folder,
        save_model,
        whole_folder,
    )

    use_one_gpu("train.accelerate=configs/gpus.yaml trains on all of them")
    settings, max_tokens = parameters.student, parameters.evaluate.max_tokens
    dtype = precision(settings.dtype)
    folder = model_folder(settings.model)

    def load_student() -> tuple[Any, Any]:
        model, tokenizer = load_model(folder, "float32", place=False)
        if settings.lora_rank:
            set_seed(parameters.training_seed)
            model = with_lora(model, settings.lora_rank)
        return model, tokenizer

    model, tokenizer = load_student()
    weights = {ANSWER: 1.0}
    weights |= {teacher: parameters.teacher_weight(teacher) for teacher in parameters.teachers}
    weights[SALIENCY] = parameters.saliency.weight
    soft_labels = parameters.soft_labels
    weights[SOFT_LABELS] = soft_labels.weight if soft_labels.teacher else 0.0
    encoder = Encoder(model.config, tokenizer, settings)
    identity = repr([fingerprint(parameters.models[settings.model], folder), settings])
    questions = encode_questions(encoder, weights, max_tokens, identity)
    # A task without a single target, such as that of a teacher that was left out, has no loss.
    weights = {t: weight if t in questions.taught else 0.0 for t, weight in weights.items()}
    if soft_labels.teacher and SOFT_LABELS not in questions.taught:
        raise UserError(
            f"{tables.distill_table('train')}: no column {tables.OPTION_SCORES.name}, which "
            "soft_labels.teacher needs; run `dvc repro`"
        )
    if set(questions.taught).difference(NO_RATIONALE):
        weights[MUTUAL_INFORMATION] = parameters.train.mutual_information
    summary: dict[str, Any] = {"too_long": questions.too_long}
    if any(questions.too_long.values()):
        print(f"longer than {encoder.limit} tokens: {questions.too_long}", file=sys.stderr)
    with ExitStack() as stack:
        live = None
        if is_main_process():
            shutil.rmtree(CURVES, ignore_errors=True)
            curves = Live(str(CURVES), save_dvc_exp=False, dvcyaml=None, monitor_system=False)
            live = stack.enter_context(curves)
        if parameters.train.epochs != 0:
            seed = parameters.training_seed
            recipe = Recipe(
                parameters.train,
                weights,
                seed,
                max_tokens,
                dtype,
                identity,
                soft_labels.temperature,
            )
            epoch, share, state = train_student(model, tokenizer, questions, recipe, live)
        else:
            prompts, rows = questions.prompts, questions.validation
            numbers = range(len(rows))
            correct = count_correct(
                model.to(device()), tokenizer, prompts, rows, numbers, max_tokens, dtype
            )
            epoch, share, state = 0, correct / len(rows), None
        remove_encoded()
        if live is None:
            return
        live.summary = {"best_epoch": epoch, "validation": {"accuracy": share}} | summary
    if state is not None:
        del model
        model, _ = load_student()
        frozen = model.state_dict() if settings.lora_rank else {}
        model.load_state_dict(frozen | state)
    if settings.lora_rank:
        model = model.merge_and_unload()
    configure_inference(model, tokenizer, max_tokens, settings.prompt)
    model = model.to(torch.bfloat16)
    check_finite(model.named_parameters(), STUDENT, "lower train.learning_rate")
    with whole_folder(STUDENT) as target:
        save_model(model, tokenizer, target)
    remove_checkpoints(CHECKPOINTS)
    length = parameters.train
    ran = f"within {length.max_steps:,} steps" if length.max_steps else f"of {length.epochs}"
    print(f"best epoch {epoch} {ran}: validation accuracy {share:.3f}")


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
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(file)]
    if machine := os.environ.get("MACHINE_RANK"):
        launcher += ["--machine_rank", machine]
    command = [sys.executable, *launcher, "-m", "stages.train", *sys.argv[1:]]
    os.execve(sys.executable, command, os.environ | {LAUNCHED: "yes"})


if __name__ == "__main__":
    run_stage(train, __doc__, launch=launch)
