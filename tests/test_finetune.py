"""The stage under tiny models of both architectures."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import DataCollatorForSeq2Seq

from stages.distil.attribution.prompts import encode_prompt
from stages.distil.attribution.tuning import CHECKPOINTS, IGNORED, _collate
from stages.distil.interface.errors import UserError
from stages.distil.language.chat import Chat
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.models.loading import load_model
from stages.distil.models.lora import with_adapter
from stages.distil.storage import tables
from stages.distil.weights.architecture import load_tokenizer
from stages.distil.weights.folders import ADAPTER, digest
from stages.finetune import finetune
from stages.saliency import saliency
from tests.conftest import BARE, ROOT
from tests.distil.attribution.test_attributor import by_word, embedded, gradient, log_probability
from tests.warm_python import interpreter

TUNED = {"finetune/epochs": 3, "finetune/learning_rate": 0.01, "finetune/batch_size": 4}


def prompts(tokenizer) -> list:
    wording = PromptFile(ROOT / "stages/prompts/answer.jinja")
    return [
        encode_prompt(Chat("", tokenizer), wording.conversation(example), example, example.answer)
        for example in tables.read_examples("train")
    ]


def likelihood(model, tokenizer) -> float:
    """Return the mean log-probability of the gold answers, computed one at a time."""
    model.eval()
    with torch.no_grad():
        values = [
            log_probability(model, embedded(model, prompt.ids), prompt.label)
            for prompt in prompts(tokenizer)
        ]
    return torch.stack(values).mean().item()


def test_tuning_makes_the_gold_answers_likelier(scoring, family, capsys):
    finetune(scoring(family, **TUNED))
    model, tokenizer = load_model(family, "float32")
    before = likelihood(model, tokenizer)
    assert likelihood(with_adapter(model, ADAPTER), tokenizer) > before + 0.5
    assert not CHECKPOINTS.exists()
    first, last = re.search(r"loss (\S+) at the start, (\S+) at", capsys.readouterr().err).groups()
    assert float(first) > float(last)


def test_the_scores_are_those_of_the_tuned_teacher(scoring, family):
    parameters = scoring(family, **TUNED)
    finetune(parameters)
    saliency(parameters)
    model, tokenizer = load_model(family, "float32")
    model = with_adapter(model, ADAPTER).eval()
    for row, prompt in zip(tables.read_table(tables.SALIENCY), prompts(tokenizer), strict=True):
        embeddings = embedded(model, prompt.ids)
        expected = by_word(prompt, (gradient(model, prompt, embeddings) * embeddings).sum(-1))
        scores = [word["score"] for word in row["words"]]
        assert scores == pytest.approx(expected, abs=1e-4 * max(map(abs, expected)))


def test_stored_scores_of_untuned_and_tuned_teachers_are_not_confused(scoring, tiny_model):
    written = []
    untuned = {"finetune/epochs": 0}
    for changes in (untuned, TUNED, TUNED | {"finetune/rank": 2}, untuned):
        parameters = scoring(tiny_model, **changes)
        finetune(parameters)
        saliency(parameters)
        written.append(tables.SALIENCY.read_bytes())
    assert len(set(written)) == 3
    assert written[0] == written[3]


def test_without_epochs_the_folder_is_empty(scoring, tiny_model):
    finetune(scoring(tiny_model, **TUNED))
    assert (ADAPTER / "adapter_model.safetensors").is_file()
    finetune(scoring(tiny_model, **{"finetune/epochs": 0}))
    assert list(ADAPTER.iterdir()) == []


def test_a_missing_adapter_is_reported(scoring, tiny_model):
    with pytest.raises(UserError, match="models/adapter: no tuned teacher there"):
        saliency(scoring(tiny_model, **TUNED))


def changed(source: Path, folder: Path, value: float) -> Path:
    """Copy a model with another value in its head."""
    model, tokenizer = load_model(source, "float32")
    model.get_output_embeddings().weight.data[0, 0] = value
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_value_that_is_not_finite_stops_the_run(scoring, tiny_model, tmp_path):
    """Of a model whose weights are finite, and too large."""
    broken = changed(tiny_model, tmp_path / "broken", 3e38)
    with pytest.raises(UserError, match="the loss is nan; lower saliency.finetune.learning_rate"):
        finetune(scoring(broken, **TUNED))
    assert not ADAPTER.exists()
    with pytest.raises(UserError, match="tiny: the attribution is not finite in float32"):
        saliency(scoring(broken, **{"finetune/epochs": 0}))
    assert not tables.SALIENCY.exists()


def test_weights_that_are_not_finite_are_named_before_anything_is_computed(
    scoring, tiny_model, tmp_path
):
    broken = changed(tiny_model, tmp_path / "broken", float("nan"))
    for stage, epochs in ((finetune, 1), (saliency, 0)):
        with pytest.raises(UserError, match="models/tiny: lm_head.weight is not finite"):
            stage(scoring(broken, **TUNED | {"finetune/epochs": epochs}))


def test_a_teacher_is_tuned_alike_with_and_without_a_padding_token(scoring, family, tmp_path):
    without = shutil.copytree(family, tmp_path / "without")
    file = without / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in settings.items() if k != "pad_token"}))
    assert load_tokenizer(without).pad_token_id is None
    adapters = []
    for folder in (family, without):
        finetune(scoring(folder, **TUNED))
        adapters.append(load_file(ADAPTER / "adapter_model.safetensors"))
    assert adapters[0].keys() == adapters[1].keys()
    for name, matrix in adapters[0].items():
        assert torch.equal(matrix, adapters[1][name])


def test_batches_are_padded_as_transformers_pads_them(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    samples = [{"input_ids": [5] * n, "labels": [IGNORED, *[6] * (n - 1)]} for n in (2, 7, 4)]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        expected = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)(samples)
        batch = _collate(tokenizer, samples)
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], expected[name]) for name in batch)


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_same_bytes(scoring, family, tmp_path):
    """Each attempt is a fork of one process, killed with SIGKILL in a method of the Trainer."""
    finetune(scoring(family, **TUNED))
    uninterrupted = digest(ADAPTER)
    shutil.rmtree(ADAPTER)
    program = f"""
import json, os, signal
from pathlib import Path
from transformers import Trainer
import stages.distil.attribution.tuning
from stages.finetune import finetune
from stages.distil.interface.parameters import load_parameters
parameters, left = load_parameters("params.yaml"), []
def kill_in(name, call):
    original, calls = getattr(Trainer, name), []
    def method(*arguments, **keywords):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)
    setattr(Trainer, name, method)
for moment in (("training_step", 2), ("_save_rng_state", 2), ("_save_rng_state", 2)):
    child = os.fork()
    if not child:
        kill_in(*moment)
        finetune(parameters)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    states = Path({str(CHECKPOINTS)!r}).glob("*/trainer_state.json")
    left.append(sorted(state.parent.name for state in states))
print(json.dumps(left))
"""
    killed = subprocess.run(
        [interpreter(), "-c", program],
        cwd=tmp_path,
        env=BARE,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == 0, killed.stderr
    assert json.loads(killed.stdout) == [[], ["checkpoint-3"], ["checkpoint-3", "checkpoint-6"]]
    assert not ADAPTER.exists()
    finetune(scoring(family, **TUNED))
    assert digest(ADAPTER) == uninterrupted
