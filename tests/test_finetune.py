"""The stage under tiny models of both architectures."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from stages.distil.attribution.prompts import encode_prompt
from stages.distil.attribution.tuning import CHECKPOINTS
from stages.distil.interface.errors import UserError
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.models.loading import load_model
from stages.distil.models.lora import with_adapter
from stages.distil.storage import tables
from stages.distil.weights.folders import ADAPTER, digest
from stages.finetune import finetune
from stages.saliency import saliency
from tests.conftest import BARE, ROOT
from tests.distil.attribution.test_attributor import embedded, gradient, log_probability

TUNED = {"finetune/epochs": 3, "finetune/learning_rate": 0.01, "finetune/batch_size": 4}


def prompts(tokenizer) -> list:
    wording = PromptFile(ROOT / "stages/prompts/answer.jinja")
    return [
        encode_prompt(tokenizer, wording.conversation(example), example, example.answer)
        for example in tables.read_examples("train")
    ]


def likelihood(model, tokenizer) -> float:
    """Return the mean log-probability of the gold answers, one at a time."""
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
    said = capsys.readouterr().err.split()
    assert float(said[said.index("loss") + 1]) > float(said[said.index("in") - 1])


def test_the_scores_are_those_of_the_tuned_teacher(scoring, family):
    parameters = scoring(family, **TUNED)
    finetune(parameters)
    saliency(parameters)
    model, tokenizer = load_model(family, "float32")
    model = with_adapter(model, ADAPTER).eval()
    for row, prompt in zip(tables.read_table(tables.SALIENCY), prompts(tokenizer), strict=True):
        found = embedded(model, prompt.ids)
        wanted = (gradient(model, prompt, found) * found).sum(-1)
        words = [0.0] * prompt.count
        for token, word in zip(prompt.tokens, prompt.words, strict=True):
            words[word] += wanted[token].item()
        scores = [word["score"] for word in row["words"]]
        assert scores == pytest.approx(words, abs=1e-4 * max(map(abs, words)))


def test_scores_of_the_teacher_as_it_is_are_not_taken_for_the_tuned_ones(scoring, tiny_model):
    tables_of = []
    as_it_is = {"finetune/epochs": 0}
    for changes in (as_it_is, TUNED, TUNED | {"finetune/rank": 2}, as_it_is):
        parameters = scoring(tiny_model, **changes)
        finetune(parameters)
        saliency(parameters)
        tables_of.append(tables.SALIENCY.read_bytes())
    assert len(set(tables_of)) == 3
    assert tables_of[0] == tables_of[3]


def test_no_epochs_leave_an_empty_folder(scoring, tiny_model):
    finetune(scoring(tiny_model, **TUNED))
    assert (ADAPTER / "adapter_model.safetensors").is_file()
    finetune(scoring(tiny_model, **{"finetune/epochs": 0}))
    assert list(ADAPTER.iterdir()) == []


def test_a_missing_adapter_is_named(scoring, tiny_model):
    with pytest.raises(UserError, match="models/adapter: no tuned teacher there"):
        saliency(scoring(tiny_model, **TUNED))


def test_what_is_no_number_stops_the_run(scoring, tiny_model, tmp_path):
    broken = tmp_path / "broken"
    model, tokenizer = load_model(tiny_model, "float32")
    model.get_output_embeddings().weight.data[0, 0] = float("nan")
    model.save_pretrained(broken)
    tokenizer.save_pretrained(broken)
    with pytest.raises(UserError, match="the loss is nan; lower saliency.finetune.learning_rate"):
        finetune(scoring(broken, **TUNED))
    assert not ADAPTER.exists()
    with pytest.raises(UserError, match="tiny: the attribution is no number in float32"):
        saliency(scoring(broken, **{"finetune/epochs": 0}))
    assert not tables.SALIENCY.exists()


def test_a_killed_run_resumes_to_the_same_bytes(scoring, family, tmp_path):
    """Each attempt is a fork of one process, killed -9 in a call of a method of the Trainer's."""
    finetune(scoring(family, **TUNED))
    whole = digest(ADAPTER)
    shutil.rmtree(ADAPTER)
    program = f"""
import json, os, signal
from pathlib import Path
from transformers import Trainer
import stages.distil.attribution.tuning
from stages.finetune import finetune
from stages.distil.interface.settings import load_parameters
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
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=BARE,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == 0, killed.stderr
    assert json.loads(killed.stdout) == [[], ["checkpoint-3"], ["checkpoint-3", "checkpoint-6"]]
    assert not ADAPTER.exists()
    finetune(scoring(family, **TUNED))
    assert digest(ADAPTER) == whole
