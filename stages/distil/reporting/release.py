"""Put the student and its model card into one folder, to serve or publish: `make release`.

The card shows the parameters that made the student, as dvc.lock records them: those in params.yaml
may have changed since.
"""

import json
import shutil
import sys
from typing import Any

from huggingface_hub import ModelCardData
from ruamel.yaml import YAML

from stages.distil.interface.catalogue import (
    FolderModel,
    HubModel,
    Model,
    PackageModel,
    ServerModel,
)
from stages.distil.interface.errors import UserError, report_errors
from stages.distil.interface.escaping import for_markdown
from stages.distil.interface.method import ANSWER, REASONING
from stages.distil.interface.parameters import Parameters
from stages.distil.interface.paths import LOCK, PARAMETERS
from stages.distil.interface.settings import check_settings, read_yaml
from stages.distil.language.student_prompts import (
    ANSWER_TASK,
    REASONING_TASK,
    question_text,
    text_before,
)
from stages.distil.storage.result_files import read_metrics
from stages.distil.storage.tables import whole_folder
from stages.distil.weights.folders import RELEASE, STUDENT

EXAMPLE = ("Which of these is a metal?", ["iron", "oak", "glass"])
HF = ".venv/bin/hf"
PUBLISH = f"""
Publish it and its data, after `{HF} auth login`:
  {HF} upload OWNER/NAME {RELEASE} .
  {HF} upload OWNER/NAME data . --repo-type dataset --include README.md --include 'distill/*'
"""
SERVE = f"""Serve it (the variable matters on a CPU alone):
  VLLM_CPU_KVCACHE_SPACE=4 .venv/bin/python -m vllm.entrypoints.openai.api_server \\
    --model {RELEASE} --host 127.0.0.1"""
NO_SERVER = "Load it with transformers: vLLM serves no encoder-decoder models."


def run_parameters() -> Parameters:
    """Return the parameters that made the student and its metrics.

    Raises `UserError` if dvc.lock describes another student or other metrics than those here.
    """
    if not LOCK.is_file():
        raise UserError(f"{LOCK}: no such file; `dvc repro` writes it")
    check_outputs("train", "evaluate")
    stages = YAML(typ="safe").load(LOCK)["stages"]
    values = read_yaml(PARAMETERS)
    teachers = stages["train"]["params"]["params.yaml"]["teachers"]
    made_by = ["prepare", *(f"rationales@{teacher}" for teacher in teachers)]
    for stage in [*made_by, "finetune", "saliency", "assemble", "evaluate", "train"]:
        for key, value in stages[stage]["params"]["params.yaml"].items():
            *blocks, last = key.split(".")
            block = values
            for name in blocks:
                block = block.setdefault(name, {})
            block[last] = value
    return check_settings(values, Parameters, LOCK)


def check_outputs(*stages: str) -> None:
    """Raise `UserError` if an output of these stages is not the one that dvc.lock describes."""
    from dvc.repo import Repo  # takes seconds

    with Repo() as repo:
        for name in stages:
            for stage in repo.stage.collect(name):
                for out in stage.outs:
                    if out.status():
                        raise UserError(
                            f"{out}: not the one that {LOCK} describes; run `dvc checkout {name}` "
                            f"to restore that one, or `dvc repro {name}` to make a new one"
                        )


def release(parameters: Parameters) -> None:
    """Copy the trained student's folder and add a model card, README.md.

    Print the commands that publish the student and its data, and one that serves the student.
    """
    trained = STUDENT / "config.json"
    if not trained.exists():
        raise UserError(f"{trained}: no such file; run `dvc repro` first")
    encoder_decoder = json.loads(trained.read_text(encoding="utf-8")).get("is_encoder_decoder")
    card = model_card(parameters, read_metrics(), bool(encoder_decoder))
    with whole_folder(RELEASE) as folder:
        shutil.copytree(STUDENT, folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(f"{RELEASE}: the student in Hugging Face format")
    print(PUBLISH + (NO_SERVER if encoder_decoder else SERVE))


def model_card(
    parameters: Parameters, metrics: dict[str, Any], encoder_decoder: bool = False
) -> str:
    """Return the README.md of the student's folder as a model card of the Hugging Face Hub."""
    student, data = parameters.student, parameters.data_set
    asked = (REASONING, REASONING_TASK) if student.reasons else (ANSWER, ANSWER_TASK)
    before, task = text_before(asked[0], student.prompt), asked[1]
    if encoder_decoder and student.prompt.prefixes:
        task = ""
    writes = "a rationale and, after `Answer:`, the answer" if student.reasons else "the answer"
    base = parameters.models[student.model]
    origin_id = {"base_model": base.id} if isinstance(base, HubModel) else {}
    head = ModelCardData(library_name="transformers", tags=["distillation"], **origin_id).to_yaml()
    teachers = [
        f"- `{name}` (α = {parameters.teacher_weight(name)}): {_origin(parameters.models[name])}"
        for name in parameters.teachers
    ]
    settings = {
        "student": student.model_dump(mode="json"),
        "train": parameters.train.model_dump(mode="json") | {"seed": parameters.training_seed},
        "rationales": parameters.rationales.model_dump(mode="json"),
        "saliency": parameters.saliency.model_dump(mode="json"),
        "assemble": parameters.assemble.model_dump(mode="json"),
    }
    origin = data.model_dump(mode="json", exclude_none=True)
    rows = [("student", metrics["student"])]
    teachers_scores = metrics["teachers"].items()
    rows += [
        (f"{name}, zero-shot", score) for name, score in teachers_scores if "accuracy" in score
    ]
    scores = [
        f"| {name} | {s['accuracy']:.3f} | {s['low']:.3f} to {s['high']:.3f} | {s['questions']} |"
        for name, s in rows
    ]
    lines = "\n".join
    licence = for_markdown(data.licence or "not stated")
    return f"""---
{head}
---

# Student{" of " if teachers else ""}{", ".join(parameters.teachers)} on {parameters.data.name}

`{student.model}` ({_origin(base)}), {_training(parameters)}.

| model | accuracy | 95 % interval | test questions |
|---|---|---|---|
{lines(scores)}

## How to ask it

It continues this text with {writes}:

```
{before}{question_text(*EXAMPLE, student.prompt)}{task}
```

Its chat template, if it has one, makes this text of a message with the question and its options.

## Where it comes from

Teachers of rationales:

{lines(teachers) or "none"}

Salient words (λ = {parameters.saliency.weight}) are those of `{parameters.saliency.teacher}`,
{_origin(parameters.models[parameters.saliency.teacher])}.

Data, `{parameters.data.name}`:

```json
{json.dumps(origin, indent=2, ensure_ascii=False)}
```

Parameters:

```json
{json.dumps(settings, indent=2)}
```

## Licence

The student derives from its base model and learnt from the teachers' texts and from the data, so
the licences of all of them apply. Data: {licence}. The models' own cards
state theirs.
"""


def _training(parameters: Parameters) -> str:
    """Return how the student was trained: the terms of its loss."""
    train = parameters.train
    if train.epochs == 0:
        return "not trained"
    terms = {
        "L_answer": parameters.student.direct,
        "Σ α L_rationale": any(map(parameters.teacher_weight, parameters.teachers)),
        "γ L_reasoned-answer": train.reasoned_answer,
        "λ L_saliency": parameters.saliency.weight,
        "w L_soft": parameters.soft_labels.teacher,
        "β L_MI": train.mutual_information,
    }
    return f"trained with L = {' + '.join(term for term, there in terms.items() if there)}"


def _origin(model: Model) -> str:
    if isinstance(model, HubModel):
        return f"{model.id} at {model.revision}"
    if isinstance(model, PackageModel):
        return f"{model.package}, sha256 {model.sha256}"
    if isinstance(model, FolderModel):
        return "a local folder"
    if isinstance(model, ServerModel):
        return f"{for_markdown(model.model)} behind a server"
    return "in the data set"


if __name__ == "__main__":
    sys.exit(report_errors("release", False, lambda: release(run_parameters())))
