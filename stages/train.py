"""Stage `train`: teach the student answers, rationales and salient words at once."""

import shutil
from pathlib import Path

from stages.distil import tables
from stages.distil.command import run_stage
from stages.distil.parameters import Parameters

CURVES = Path("results/train")


def train(parameters: Parameters) -> None:
    """Train and write the student's folder and the curves of its training."""
    rows = tables.read_table(tables.distill_table("train"))
    validation = tables.read_table(tables.distill_table("validation"))
    # After the inputs are read: importing torch takes seconds.
    import torch
    from dvclive import Live

    from stages.distil.loading import load_model
    from stages.distil.models import STUDENT, model_folder, save_model, whole_folder
    from stages.distil.student import ANSWER, SALIENCY
    from stages.distil.training import train_student

    model, tokenizer = load_model(model_folder(parameters.student.model), "float32")
    weights = {ANSWER: 1.0}
    weights |= {teacher: parameters.teacher_weight(teacher) for teacher in parameters.teachers}
    weights[SALIENCY] = parameters.saliency.weight
    shutil.rmtree(CURVES, ignore_errors=True)
    with Live(str(CURVES), save_dvc_exp=False, dvcyaml=None, monitor_system=False) as live:
        trainer = train_student(
            model,
            tokenizer,
            rows,
            validation,
            weights,
            parameters.train,
            parameters.training_seed,
            parameters.evaluate.max_tokens,
            live,
        )
        live.summary = {
            "best_epoch": trainer.best_epoch,
            "validation": {"accuracy": trainer.best_accuracy},
        }
    with whole_folder(STUDENT) as folder:
        save_model(model.to(torch.bfloat16), tokenizer, folder)
    print(
        f"best epoch {trainer.best_epoch} of {parameters.train.epochs}: "
        f"validation accuracy {trainer.best_accuracy:.3f}"
    )


if __name__ == "__main__":
    run_stage(train, __doc__)
