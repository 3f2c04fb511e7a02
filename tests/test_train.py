"""The stage under tiny students of both architectures."""

import errno
import itertools
import json
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer

from stages.distil.encoding.files import Asked
from stages.distil.encoding.samples import Sample
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.models.loading import load_model
from stages.distil.models.lora import round_frozen
from stages.distil.storage import tables
from stages.distil.storage.tables import TRAINING
from stages.distil.student import training
from stages.distil.student.losses import MutualInformation
from stages.distil.student.training import CHECKPOINTS, DistillationTrainer
from stages.distil.weights.folders import STUDENT, digest
from stages.encode import encode
from stages.evaluate import _voted, evaluate
from stages.train import SPEED, launch, train
from tests.conftest import BARE, PARAMS, ROOT
from tests.students import write_distill
from tests.warm_python import interpreter

ROWS = 12
COLOURS = ["red", "green", "blue"]


def distilled(number: int, split: str, full: bool = False) -> dict:
    """Return a row; unless it is `full`, `two` explains odd questions, and a third has no words."""
    answer = COLOURS[number % 3]
    return {
        "id": f"{split}-{number}",
        "question": f"which colour has ball {number}?",
        "options": COLOURS,
        "answer": answer,
        "rationales": [
            {"teacher": teacher, "text": text, "status": "ok"}
            for teacher, text in (
                ("one", f"Ball {number} is {answer}."),
                ("two", f"Clearly {answer}, as all know."),
            )
            if teacher == "one" or number % 2 or full
        ],
        "saliency": ["colour", answer] if number % 3 or full else [],
    }


@pytest.fixture
def prepared(tmp_path, write_params, monkeypatch):
    """Write a small data set and the student, and encode it; return the changed parameters."""
    monkeypatch.chdir(tmp_path)

    def run(model, rows=ROWS, full=False, **changes):
        for split in ("train", "validation", "test"):
            write_distill(split, (distilled(number, split, full) for number in range(rows)))
        if not (tmp_path / "models/tiny").exists():
            shutil.copytree(model, tmp_path / "models/tiny")
        config = tmp_path / "models/tiny/config.json"  # dropout would differ between passes
        config.write_text(config.read_text().replace('"dropout_rate": 0.1', '"dropout_rate": 0.0'))
        values = {
            "alpha": 0.5,
            "teachers": ["one", "two"],
            "models/one": {"source": "provided"},
            "models/two": {"source": "provided"},
            "models/tiny": {"source": "folder", "path": str(model)},
            "student/model": "tiny",
            "student/dtype": "float32",
            "train/epochs": 4,
            "train/learning_rate": 0.01,
            "train/batch_size": 4,
            "train/batch_tokens": 200,
            "evaluate/max_tokens": 12,
        }
        changed = {name.replace("__", "/"): value for name, value in changes.items()}
        parameters = load_parameters(write_params(values | changed))
        encode(parameters)
        return parameters

    return run


def weights() -> dict[str, torch.Tensor]:
    model, _ = load_model(STUDENT, "float32")
    return dict(model.named_parameters())


def curve(name: str) -> list[float]:
    return pandas.read_csv(TRAINING / f"plots/metrics/{name}.tsv", sep="\t").iloc[:, 1].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"student__shared_context": False},
        {"student__form": "after_answer"},
        {"student__form": "before_answer"},
        {"student__form": "before_answer", "train__reasoned_answer": 1.0},
        {"student__lora_rank": 4},
        {"student__lora_rank": 4, "student__form": "before_answer"},
        {"alpha": 0.0, "saliency__weight": 0.0},
        {"alpha": {"one": 0.7, "two": 0.0}},
    ],
)
def test_the_student_learns_the_tasks_with_a_weight(prepared, family, changes):
    train(prepared(family, **changes))
    losses = curve("loss/answer")
    assert losses[-1] < losses[0] - 0.5
    expected = {"total", "answer"}
    if changes.get("alpha") != 0.0:
        expected |= {"one", "saliency"} | ({"two"} if "alpha" not in changes else set())
    expected |= {"reasoned_answer"} if "train__reasoned_answer" in changes else set()
    assert {file.stem for file in (TRAINING / "plots/metrics/loss").iterdir()} == expected
    assert len(curve("validation/accuracy")) == 4
    summary = json.loads((TRAINING / "metrics.json").read_text())
    assert 1 <= summary["best_epoch"] <= 4
    assert summary["too_long"] == {"cut": 0}
    assert not CHECKPOINTS.exists()


def test_the_total_loss_is_the_weighted_sum_of_its_parts(prepared, tiny_model):
    alpha = {"one": 0.7, "two": 0.2}
    train(prepared(tiny_model, full=True, alpha=alpha, saliency__weight=0.3))
    parts = {name: curve(f"loss/{name}") for name in ("answer", "one", "two", "saliency")}
    for n, total in enumerate(curve("loss/total")):
        expected = parts["answer"][n] + 0.7 * parts["one"][n]
        expected += 0.2 * parts["two"][n] + 0.3 * parts["saliency"][n]
        assert total == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_curve_is_the_mean_over_targets_that_are_there(prepared, tiny_model, batch_size):
    """A student that does not learn guesses every target alike, however rare the targets are."""
    train(prepared(tiny_model, train__learning_rate=1e-9, train__batch_size=batch_size))
    of_every_question = statistics.fmean(curve("loss/one"))
    for name in ("two", "saliency"):
        assert all(abs(loss - of_every_question) < 0.5 for loss in curve(f"loss/{name}"))


@pytest.mark.parametrize("shared_context", [True, False])
def test_the_mutual_information_term_is_part_of_the_total(prepared, tiny_model, shared_context):
    weights = {"alpha": 0.5, "saliency__weight": 0.0, "train__mutual_information": 0.4}
    train(prepared(tiny_model, full=True, student__shared_context=shared_context, **weights))
    parts = {name: curve(f"loss/{name}") for name in ("answer", "one", "two", "mutual_information")}
    for n, total in enumerate(curve("loss/total")):
        expected = parts["answer"][n] + 0.5 * (parts["one"][n] + parts["two"][n])
        assert total == pytest.approx(expected + 0.4 * parts["mutual_information"][n], rel=1e-5)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_bounded_loss_does_not_stop_the_run_however_it_grows(
    prepared, tiny_model, monkeypatch, bounded
):
    """The mutual information grows tenfold in each pass, beyond any limit of a loss."""
    factors = (10.0**n for n in itertools.count())
    original = MutualInformation.__call__

    def grow(loss, predicted):
        return original(loss, predicted) * next(factors)

    monkeypatch.setattr(MutualInformation, "__call__", grow)
    monkeypatch.setattr(MutualInformation, "bounded", bounded)
    parameters = prepared(
        tiny_model,
        train__mutual_information=1e-9,
        train__learning_rate=1e-9,
        train__epochs=4,
        train__batch_tokens=10_000,
    )
    if bounded:
        train(parameters)
        assert curve("loss/mutual_information")[-1] > 1e9
    else:
        with pytest.raises(UserError, match="the loss is .* more than .*; lower train.learning_"):
            train(parameters)


def test_what_differs_between_runs_is_not_among_the_results(prepared, tiny_model):
    """Speed and memory have curves in a folder of their own, which each training empties first."""
    (SPEED / "plots/metrics").mkdir(parents=True)
    (SPEED / "plots/metrics/old.tsv").write_text("old")
    train(prepared(tiny_model))
    speeds = {file.stem: file for file in (SPEED / "plots/metrics").iterdir()}
    assert set(speeds) == {"tokens_per_second", "peak_memory_gb"}
    steps = pandas.read_csv(TRAINING / "plots/metrics/loss/total.tsv", sep="\t")["step"].tolist()
    for name, file in speeds.items():
        written = pandas.read_csv(file, sep="\t")
        assert written["step"].tolist() == steps
        assert (written[name] > 0).all()
    drawn = {file.parent.name for file in TRAINING.rglob("*.tsv")}
    assert drawn == {"loss", "validation"}
    texts = [file.read_text() for file in TRAINING.rglob("*") if file.is_file()]
    assert not any("tokens_per_second" in text or "memory" in text for text in texts)


@pytest.mark.parametrize("length", [{"train__epochs": 1}, {"train__epochs": 0}])
def test_the_student_is_trained_without_a_tokenizer_call(prepared, tiny_model, monkeypatch, length):
    """It reads tokens and decodes its own; only the chat template that it exports is a text."""
    parameters = prepared(tiny_model, **length)
    monkeypatch.setattr("stages.distil.student.export.configure_inference", lambda *_: None)
    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", None)  # would be called
    train(parameters)


def test_missing_tokens_are_reported(prepared, tiny_model):
    parameters = prepared(tiny_model)
    shutil.rmtree(tables.ENCODED)
    with pytest.raises(UserError, match="data/encoded: no such table; `dvc repro` makes it"):
        train(parameters)


def test_a_teacher_that_was_left_out_has_no_curve(prepared, tiny_model):
    """Every odd question has a rationale of `two`; a single, even question has none."""
    parameters = prepared(tiny_model, rows=1, train__epochs=1)
    train(parameters)
    drawn = {file.stem for file in (TRAINING / "plots/metrics/loss").iterdir()}
    assert drawn == {"total", "answer", "one"}  # nor has question 0 salient words


def test_the_token_budget_does_not_change_what_is_learnt(prepared, family):
    curves = []
    for budget in (1, 10_000):
        train(prepared(family, train__batch_tokens=budget, train__learning_rate=1e-3))
        curves.append(curve("loss/total"))
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_activations_that_are_computed_twice_change_no_byte(prepared, family):
    results = []
    for checkpointing in (False, True):
        train(prepared(family, train__gradient_checkpointing=checkpointing))
        results.append([digest(STUDENT), curve("loss/total"), curve("validation/accuracy")])
    assert results[0] == results[1]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_converted_weights_are_not_kept_where_activations_are_not(
    prepared, tiny_model, monkeypatch, checkpointing
):
    kept = []
    forward = torch.nn.Embedding.forward

    def record(module, *inputs):
        if module.training:
            kept.append(torch.is_autocast_cache_enabled())
        return forward(module, *inputs)

    monkeypatch.setattr(torch.nn.Embedding, "forward", record)
    changes = {"student__dtype": "bfloat16", "train__gradient_checkpointing": checkpointing}
    train(prepared(tiny_model, train__epochs=1, **changes))
    assert set(kept) == {not checkpointing}


def test_long_texts_are_trained_with_fused_attention(prepared, family, monkeypatch):
    curves, used = [], []
    plain = PreTrainedModel.set_attn_implementation
    monkeypatch.setattr(
        PreTrainedModel,
        "set_attn_implementation",
        lambda model, name: used.append(name) or plain(model, name),
    )
    for most in (10_000, 10):
        assert used == []
        monkeypatch.setattr("stages.distil.models.loading.PLAIN_ATTENTION", most)
        train(prepared(family, train__epochs=2))
        curves.append(curve("loss/total"))
    assert used == ["sdpa"]
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


@pytest.mark.parametrize(("share", "twice"), [(0.4, False), (1e-9, True)])
def test_activations_are_computed_twice_if_they_do_not_fit(
    prepared, tiny_model, monkeypatch, share, twice
):
    monkeypatch.setattr("stages.distil.models.hardware.MEMORY_SHARE", share)
    done = []
    plain = PreTrainedModel.gradient_checkpointing_enable
    monkeypatch.setattr(
        PreTrainedModel,
        "gradient_checkpointing_enable",
        lambda model, **settings: done.append(settings) or plain(model, **settings),
    )
    train(prepared(tiny_model, train__epochs=1))
    assert bool(done) is twice


def test_without_epochs_the_student_is_unchanged(prepared, tiny_model):
    train(prepared(tiny_model, train__epochs=0))
    before = dict(load_model(tiny_model, "bfloat16")[0].named_parameters())
    for name, weight in weights().items():
        torch.testing.assert_close(weight, before[name].float(), rtol=0, atol=0)
    assert json.loads((TRAINING / "metrics.json").read_text())["best_epoch"] == 0


def test_as_many_validation_questions_are_asked_as_are_set(prepared, tiny_model, monkeypatch):
    asked = []

    def count_correct(student, questions, own, *_):
        asked.append([questions[number].answer for number in own])
        return 3

    monkeypatch.setattr(training, "count_correct", count_correct)
    for size in (None, 4, 4, 1_000):
        train(prepared(tiny_model, train__validation=size, train__epochs=1))
    assert [len(answers) for answers in asked] == [ROWS, 4, 4, ROWS]
    assert asked[1] == asked[2] != asked[0][:4]
    assert curve("validation/accuracy") == [3 / ROWS]


def test_training_ends_after_epochs_without_a_gain(prepared, tiny_model):
    train(prepared(tiny_model, train__epochs=30, train__patience=2, train__learning_rate=1e-6))
    accuracies = curve("validation/accuracy")
    best = accuracies.index(max(accuracies))
    assert len(accuracies) == best + 3 < 30


def test_as_many_steps_as_epochs_have_give_the_same_bytes(prepared, family):
    results = []
    for length in ({"train__epochs": 2}, {"train__epochs": None, "train__max_steps": 6}):
        train(prepared(family, **length))
        results.append([digest(STUDENT), curve("loss/total"), curve("validation/accuracy")])
    assert results[0] == results[1]


def test_a_training_by_steps_ends_within_an_epoch(prepared, tiny_model, capsys):
    train(prepared(tiny_model, train__epochs=None, train__max_steps=7))
    steps = pandas.read_csv(TRAINING / "plots/metrics/validation/accuracy.tsv", sep="\t")["step"]
    assert steps.tolist() == [3, 6, 7]
    assert "epoch 3: validation accuracy" in capsys.readouterr().err
    summary = json.loads((TRAINING / "metrics.json").read_text())
    assert (summary["step"], 1 <= summary["best_epoch"] <= 3) == (7, True)


def test_a_training_by_steps_may_end_early(prepared, tiny_model):
    length = {"train__epochs": None, "train__max_steps": 90, "train__patience": 2}
    train(prepared(tiny_model, **length, train__learning_rate=1e-6))
    accuracies = curve("validation/accuracy")
    assert len(accuracies) == accuracies.index(max(accuracies)) + 3 < 30


@pytest.mark.parametrize("saved", [1, 3])
def test_a_training_by_steps_resumes_from_any_checkpoint(prepared, family, saved, capsys):
    """The third checkpoint is in the middle of an epoch, and there is no step after it."""
    parameters = prepared(family, train__epochs=None, train__max_steps=8)
    train(parameters)
    uninterrupted = results()
    interrupt(parameters, saved)
    names = sorted(path.name for path in CHECKPOINTS.glob("checkpoint-*"))
    assert (f"checkpoint-{[3, 6, 8][saved - 1]}") in names
    train(parameters)
    assert f"resuming from {CHECKPOINTS}/{names[-1]}" in capsys.readouterr().err
    assert results() == uninterrupted


LENGTHS = [
    {},
    {"student__lora_rank": 2},
    {"train__epochs": 30, "train__patience": 2, "train__learning_rate": 1e-6},  # ends early
    {"train__epochs": None, "train__max_steps": 8},  # ends within an epoch
    {"train__epochs": None, "train__max_steps": 2},  # ends within the first
]


@pytest.mark.parametrize("changes", LENGTHS)
def test_a_student_that_cannot_be_written_needs_no_second_training(
    prepared, tiny_model, tmp_path, monkeypatch, changes
):
    parameters = prepared(tiny_model, **changes)
    train(parameters)
    uninterrupted = results()
    shutil.rmtree(STUDENT)

    def save(model, folder, *arguments, **keywords):  # there is room for checkpoints alone
        if "student" in str(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(model, folder, *arguments, **keywords)

    original = PreTrainedModel.save_pretrained
    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedModel, "save_pretrained", save)
        with pytest.raises(UserError, match=r"models/student.tmp: cannot be written .*No space"):
            train(parameters)
    assert list((tmp_path / "models").iterdir()) == [tmp_path / "models/tiny"]
    with monkeypatch.context() as patched:
        patched.setattr(DistillationTrainer, "training_step", None)  # would be called
        train(parameters)
    assert results() == uninterrupted
    assert not CHECKPOINTS.exists()


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)


def garble(file: Path) -> None:
    file.write_text("[1]")


DAMAGES = [
    *itertools.product(
        (
            "model.safetensors",
            "rng_state.pth",
            "optimizer.pt",
            "scheduler.pt",
            "config.json",
            "trainer_state.json",
        ),
        (halve, flip, Path.unlink),
    ),
    ("digests.json", halve),
    ("digests.json", garble),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(
    prepared, tiny_model, name, damage, capsys
):
    parameters = prepared(tiny_model, train__epochs=3)
    train(parameters)
    uninterrupted = results()
    interrupt(parameters, saved=2)
    damage(CHECKPOINTS / "checkpoint-6" / name)
    capsys.readouterr()
    train(parameters)
    lines = capsys.readouterr().err
    assert f"{CHECKPOINTS}/checkpoint-6: {name} " in lines
    assert "it is set aside as damaged-checkpoint-6\n" in lines
    assert "resuming from .cache/checkpoints/train/checkpoint-3" in lines
    assert results() == uninterrupted


def test_a_checkpoint_whose_best_epoch_is_damaged_is_not_resumed(prepared, tiny_model, capsys):
    """No epoch is better than the first, whose weights the student would have."""
    parameters = prepared(tiny_model, train__epochs=3, train__learning_rate=1e-9)
    train(parameters)
    uninterrupted = results()
    interrupt(parameters, saved=2)
    flip(CHECKPOINTS / "checkpoint-3/model.safetensors")
    capsys.readouterr()
    train(parameters)
    lines = capsys.readouterr().err
    assert "checkpoint-6: the best epoch is in checkpoint-3, where model.safetensors has" in lines
    assert "checkpoint-3: model.safetensors has changed; it is set aside" in lines
    assert "resuming" not in lines
    assert results() == uninterrupted


def test_two_checkpoints_are_kept_and_one_is_enough(prepared, tiny_model, monkeypatch, capsys):
    """The third epoch is the best one, so the second checkpoint, which needs the first, goes."""
    accuracies = iter((0.5, 0.25, 0.75))

    def evaluate(trainer, *_, **__):
        metrics = {"eval_accuracy": next(accuracies)}
        trainer.log(metrics)
        return metrics

    parameters = prepared(tiny_model)
    with monkeypatch.context() as patched:
        patched.setattr(DistillationTrainer, "evaluate", evaluate)
        interrupt(parameters, saved=3)
    assert sorted(path.name for path in CHECKPOINTS.iterdir()) == ["checkpoint-3", "checkpoint-9"]
    halve(CHECKPOINTS / "checkpoint-9/optimizer.pt")
    train(parameters)
    assert "resuming from .cache/checkpoints/train/checkpoint-3" in capsys.readouterr().err


def results() -> list:
    return [digest(STUDENT), digest(TRAINING), curve("loss/total"), curve("validation/accuracy")]


def interrupt(parameters, saved: int) -> None:
    """Train until this number of checkpoints have been written."""
    save, calls = DistillationTrainer._save_checkpoint, []

    def stop_after(*arguments, **keywords):
        save(*arguments, **keywords)
        calls.append(1)
        if len(calls) == saved:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(DistillationTrainer, "_save_checkpoint", stop_after)
        train(parameters)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"train__warmup": 0.0}, [4 / 4, 3 / 4, 2 / 4, 1 / 4]),
        ({"train__warmup": 0.5}, [0, 1 / 2, 2 / 2, 1 / 2]),
        ({}, [0, 3 / 3, 2 / 3, 1 / 3]),
    ],
)
def test_the_learning_rate_rises_and_falls(prepared, tiny_model, monkeypatch, changes, rates):
    used = []

    def step(trainer, *arguments, **keywords):
        used.append(trainer.optimizer.param_groups[0]["lr"])
        return original(trainer, *arguments, **keywords)

    original = DistillationTrainer.training_step
    monkeypatch.setattr(DistillationTrainer, "training_step", step)
    train(prepared(tiny_model, train__epochs=None, train__max_steps=4, **changes))
    assert used == pytest.approx([0.01 * rate for rate in rates])


def test_lora_trains_low_rank_changes_only(prepared, tiny_model):
    train(prepared(tiny_model, student__lora_rank=2, train__epochs=1))
    before = dict(load_model(tiny_model, "float32")[0].named_parameters())
    changed = weights()
    name = "model.layers.0.mlp.up_proj.weight"
    difference = (changed[name] - before[name].bfloat16().float()).double()
    singular = torch.linalg.svdvals(difference)
    assert singular[1] > 3 * singular[2]  # from the third on: rounding to bfloat16
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(changed[embeddings], before[embeddings].bfloat16().float())


def test_rounding_frozen_matrices_once_changes_no_byte(prepared, family, monkeypatch):
    parameters = prepared(family, student__lora_rank=2, student__dtype="bfloat16", train__epochs=2)
    rounded = []

    def count_and_round(model):
        round_frozen(model)
        names = {n for n, p in model.named_parameters() if p.dtype == torch.bfloat16}
        rounded.append(any("up_proj" in n or "wi" in n for n in names))
        assert not any(n.endswith(("embed_tokens.weight", "shared.weight")) for n in names)

    monkeypatch.setattr(training, "round_frozen", count_and_round)
    train(parameters)
    once = digest(STUDENT)
    monkeypatch.setattr(training, "round_frozen", lambda model: None)
    train(parameters)
    assert rounded == [True]
    assert digest(STUDENT) == once


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_in_bfloat16_are_trained_in_bfloat16(prepared, family, monkeypatch, rank):
    """With LoRA, the frozen ones are; buffers, such as those of positions, never."""
    trained = torch.float32 if rank else torch.bfloat16
    used = []
    plain = DistillationTrainer.create_optimizer

    def create(trainer, *arguments):
        for weight in trainer.model.parameters():
            assert weight.dtype == (trained if weight.requires_grad else torch.bfloat16)
        buffers = [b for b in trainer.model.buffers() if b.is_floating_point()]
        assert all(buffer.dtype == torch.float32 for buffer in buffers)
        used.append(plain(trainer, *arguments))
        return used[0]

    monkeypatch.setattr(DistillationTrainer, "create_optimizer", create)
    changes = {"student__weights": "bfloat16", "student__dtype": "auto"}
    train(prepared(family, student__lora_rank=rank, **changes))
    [optimizer] = used
    assert {t.dtype for s in optimizer.state.values() for t in s.values() if t.dim()} == {trained}
    losses = curve("loss/answer")
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name", ["adafactor", "sgd"])
def test_another_optimizer_is_used(prepared, family, monkeypatch, name):
    used = []
    plain = DistillationTrainer.create_optimizer

    def create(trainer, *arguments):
        used.append(type(optimizer := plain(trainer, *arguments)).__name__.lower())
        return optimizer

    monkeypatch.setattr(DistillationTrainer, "create_optimizer", create)
    train(prepared(family, train__epochs=1))
    usual = digest(STUDENT)
    train(prepared(family, train__epochs=1, train__optimizer=name))
    assert used == ["adamw", name]
    assert digest(STUDENT) != usual


def test_a_diverging_loss_stops_the_run_and_leaves_no_student(prepared, tiny_model):
    with pytest.raises(
        UserError, match="the loss is .* at step .*, more than .*; lower train.learning_rate"
    ):
        train(prepared(tiny_model, train__learning_rate=0.99, train__epochs=20))
    assert not STUDENT.exists()


def test_a_student_that_is_not_finite_after_its_last_step_is_not_written(
    prepared, tiny_model, monkeypatch
):
    """Its last loss was: a gradient that overflows shows in the next one only."""
    train_student = training.train_student

    def overflow(student, *arguments):
        results = train_student(student, *arguments)
        student.model.get_output_embeddings().weight.data[0, 0] = float("inf")
        return results

    monkeypatch.setattr(training, "train_student", overflow)
    with pytest.raises(
        UserError, match="models/student: lm_head.weight is not finite.*lower train.learning_rate"
    ):
        train(prepared(tiny_model, train__epochs=1))
    assert not STUDENT.exists()


def test_two_runs_give_the_same_bytes(prepared, family):
    results = []
    for _ in range(2):
        train(prepared(family))
        results.append([digest(STUDENT), curve("loss/total")])
    assert results[0] == results[1]


def test_questions_that_are_too_long_are_counted(prepared, tiny_model, capsys):
    parameters = prepared(tiny_model, student__context=75, train__epochs=1)
    capsys.readouterr()
    train(parameters)
    assert json.loads((TRAINING / "metrics.json").read_text())["too_long"]["cut"] > 0
    assert "longer than 75 tokens: {'cut': " in capsys.readouterr().err


ATTEMPTS = 10
KILLS = f"""
import json, os, random, signal, sys
from pathlib import Path
from stages.distil.student.training import DistillationTrainer
from stages.distil.interface.parameters import load_parameters
from stages.train import train
parameters, left = load_parameters("params.yaml"), []
METHODS = ("training_step", "_save_rng_state", "_save_optimizer_and_scheduler", "evaluate", "log")
def kill_in(name, call):
    original, calls = getattr(DistillationTrainer, name), []
    def method(*arguments, **keywords):
        calls.append(name)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)
    setattr(DistillationTrainer, name, method)
drawn = random.Random(7)
for attempt in range({ATTEMPTS}):
    name = drawn.choice(METHODS)
    child = os.fork()
    if not child:
        kill_in(name, drawn.randint(1, 5 if name == "training_step" else 2))
        train(parameters)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, (attempt, name)
    drawn.random()
    states = Path({str(CHECKPOINTS)!r}).glob("*/digests.json")
    left.append(sorted(int(state.parent.name.split("-")[1]) for state in states))
print(json.dumps(left))
"""


def commented(folder: Path) -> Path:
    """Copy the stages with a comment at the end of every module."""
    shutil.copytree(ROOT / "stages", folder / "stages")
    for module in folder.rglob("*.py"):
        module.write_text(module.read_text(encoding="utf-8") + "# A comment.\n", encoding="utf-8")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes"),
    [("tiny_model", {}), ("tiny_t5", {}), ("tiny_model", {"student__lora_rank": 2})],
    indirect=["family"],
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    prepared, family, tmp_path, changes, capsys
):
    """Each attempt is a fork of one process, killed with SIGKILL in a method of the Trainer.

    The last run has other comments in its code, and resumes nevertheless.
    """
    parameters = prepared(family, train__epochs=8, **changes)
    train(parameters)
    uninterrupted = [digest(STUDENT), curve("loss/total"), curve("validation/accuracy")]
    shutil.rmtree(STUDENT)
    killed = subprocess.run(
        [interpreter(), "-c", KILLS],
        cwd=tmp_path,
        env=BARE | {"PYTHONPATH": str(commented(tmp_path / "code"))},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == 0, killed.stderr
    left = json.loads(killed.stdout.splitlines()[-1])
    assert len(left) == ATTEMPTS
    assert max(left[-1]) > 3  # checkpoints of some epochs survived
    assert not STUDENT.exists()
    capsys.readouterr()
    train(parameters)
    assert f"checkpoint-{max(left[-1])}" in capsys.readouterr().err
    assert [digest(STUDENT), curve("loss/total"), curve("validation/accuracy")] == uninterrupted


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint_intact(prepared, tiny_model, tmp_path):
    """A limit on file size makes the second checkpoint fail."""
    parameters = prepared(tiny_model)
    train(parameters)
    uninterrupted = digest(STUDENT)
    shutil.rmtree(STUDENT)
    program = """
import resource, sys
from stages.distil.interface.command import run_stage
from stages.distil.student.training import DistillationTrainer
from stages.train import train
original, calls = DistillationTrainer._save_checkpoint, []
def save(*arguments):
    calls.append(1)
    if len(calls) == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    return original(*arguments)
DistillationTrainer._save_checkpoint = save
sys.argv = ["train"]
run_stage(train, "")
"""
    command = [interpreter(), "-c", program]
    full = subprocess.run(command, cwd=tmp_path, env=BARE, capture_output=True, text=True)
    assert full.returncode == 1
    assert "train: error: " in full.stderr.splitlines()[-1]
    assert "Traceback" not in full.stderr
    assert "checkpoint-6" in full.stderr
    states = sorted(p.parent.name for p in CHECKPOINTS.glob("*/trainer_state.json"))
    assert states == ["checkpoint-3"]
    train(parameters)
    assert digest(STUDENT) == uninterrupted


def test_checkpoints_of_other_parameters_are_not_resumed(prepared, tiny_model):
    parameters = prepared(tiny_model, train__epochs=1)
    train(parameters)
    expected = digest(STUDENT)
    CHECKPOINTS.mkdir(parents=True)
    (CHECKPOINTS / "checkpoint-3").mkdir()
    (CHECKPOINTS / "checkpoint-3/trainer_state.json").write_text("{}")
    (CHECKPOINTS / "checkpoint-3/digests.json").write_text('{"key": "another", "files": {}}')
    train(parameters)
    assert digest(STUDENT) == expected


def test_a_missing_accelerate_file_is_reported(prepared, tiny_model):
    with pytest.raises(UserError, match="train.accelerate: two.yaml: no such file"):
        launch(prepared(tiny_model, train__accelerate="two.yaml"))


def configuration(name: str) -> str:
    """Return a file of `configs/`, for two processes."""
    text = (ROOT / "configs" / name).read_text(encoding="utf-8")
    return text.replace("num_processes: 4", "num_processes: 2")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(prepared, family, tmp_path, run_stage):
    """The last step has a single question, so one process has none."""
    changes = {"rows": 9, "train__epochs": 2, "student__shared_context": True}
    train(prepared(family, **changes))
    alone = [curve("loss/total"), curve("loss/one"), curve("validation/accuracy")]
    (tmp_path / "two.yaml").write_text(configuration("gpus.yaml"))
    prepared(family, **changes, train__accelerate="two.yaml")
    done = run_stage("train")
    assert done.returncode == 0, done.stderr
    assert curve("loss/total") == pytest.approx(alone[0], rel=1e-4)
    assert curve("loss/one") == pytest.approx(alone[1], rel=1e-4)
    assert curve("validation/accuracy") == alone[2]


MACHINE = """
import os, signal
from stages.distil.interface.command import run_stage
from stages.distil.student.training import DistillationTrainer
from stages.train import launch, train
save, saved = DistillationTrainer._save_checkpoint, []
def save_and_end(trainer, *arguments):
    save(trainer, *arguments)
    saved.append(1)
    if os.environ["END"] == str(len(saved)):
        trainer.accelerator.wait_for_everyone()
        os.kill(os.getpid(), signal.SIGKILL)
DistillationTrainer._save_checkpoint = save_and_end
run_stage(train, "", launch=launch)
"""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def two_machines(folders: list[Path], end: int) -> list[subprocess.CompletedProcess[str]]:
    """Train as torchrun does on two machines; with `end`, kill both after that checkpoint."""
    port = free_port()
    started = [
        subprocess.Popen(
            [interpreter(), "-c", MACHINE],
            cwd=folder,
            env=BARE
            | {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "END": str(end)}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, folder in enumerate(folders)
    ]
    outputs = [process.communicate() for process in started]
    return [
        subprocess.CompletedProcess([], process.returncode, *output)
        for process, output in zip(started, outputs, strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_machines_resume_together_or_say_why_not(prepared, tiny_model, tmp_path, shared):
    """An accelerate file that does not exist shows that no other launcher is started."""
    prepared(tiny_model, train__epochs=3, train__accelerate="none.yaml")
    other = tmp_path if shared else tmp_path.parent / f"{tmp_path.name}-other"
    if not shared:
        shutil.copytree(tmp_path, other)
    killed = two_machines([tmp_path, other], end=2)
    assert [done.returncode for done in killed] == [-signal.SIGKILL] * 2, killed[0].stderr
    assert not STUDENT.exists()
    again = two_machines([tmp_path, other], end=0)
    if not shared:
        for done in again:
            assert done.returncode == 1
            assert "the processes found different checkpoints (checkpoint-6, none)" in done.stderr
            assert "Traceback" not in done.stderr
        return
    assert [done.returncode for done in again] == [0, 0], again[0].stderr
    assert "resuming from .cache/checkpoints/train/checkpoint-6" in again[0].stderr
    resumed = digest(STUDENT)
    shutil.rmtree(STUDENT)
    assert [done.returncode for done in two_machines([tmp_path, other], end=0)] == [0, 0]
    assert digest(STUDENT) == resumed


@pytest.mark.slow
def test_two_machines_have_the_same_accelerate_file(prepared, tiny_model, tmp_path):
    train(prepared(tiny_model, train__epochs=2))
    alone = curve("loss/total")
    file = (ROOT / "configs/machines.yaml").read_text(encoding="utf-8")
    for old, new in {
        "processes: 8": "processes: 2",
        "10.0.0.1": "127.0.0.1",
        "29500": free_port(),
    }.items():
        assert old in file
        file = file.replace(old, new)
    (tmp_path / "machines.yaml").write_text(file)
    prepared(tiny_model, train__epochs=2, train__accelerate="machines.yaml")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "stages.train"],
            cwd=tmp_path,
            env=BARE | {"MACHINE_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], errors
    assert curve("loss/total") == pytest.approx(alone, rel=1e-4)


# What stands for Slurm: two nodes on this machine.
SCONTROL = "#!/bin/sh\necho 127.0.0.1\n"
SRUN = '#!/bin/sh\n"$@" & first=$!\n"$@" & second=$!\nwait $first && wait $second\n'


@pytest.mark.slow
def test_slurm_starts_torchrun_on_every_node(prepared, tiny_model, tmp_path):
    train(prepared(tiny_model, train__epochs=2))
    alone = curve("loss/total")
    (tmp_path / "bin").mkdir()
    script = (ROOT / "configs/slurm.sh").read_text(encoding="utf-8")
    for old, new in {"node=4 ": "node=1 ", "29500": free_port(), "stages/python": "python"}.items():
        assert old in script
        script = script.replace(old, new)
    for name, text in {"scontrol": SCONTROL, "srun": SRUN, "job": script}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    prepared(tiny_model, train__epochs=2)
    path = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    job = {"SLURM_JOB_NODELIST": "two", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "PATH": path}
    done = subprocess.run(
        [tmp_path / "bin/job"], cwd=tmp_path, env=BARE | job, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert curve("loss/total") == pytest.approx(alone, rel=1e-4)


CORES_FOR_GPUS = """
from accelerate.state import DistributedType, PartialState

begin = PartialState.__init__

def init(self, *arguments, **keywords):
    begin(self, *arguments, **keywords)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU

PartialState.__init__ = init
"""


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("no", 1e-4), ("bf16", 0.02)])
def test_a_sharded_student_learns_what_an_unsharded_one_does(
    prepared, tiny_model, tmp_path, run_stage, precision, tolerance
):
    """FSDP as in `configs/`; accelerate shards on GPUs only, so it is told that cores are GPUs."""
    dtype = {"no": "float32", "bf16": "bfloat16"}[precision]
    changes = {"train__epochs": 2, "student__dtype": dtype}
    train(prepared(tiny_model, **changes))
    alone = [curve("loss/total"), curve("validation/accuracy"), weights()]
    file = configuration("fsdp.yaml")
    assert "mixed_precision: bf16" in file
    file = file.replace("mixed_precision: bf16", f"mixed_precision: '{precision}'")
    (tmp_path / "sharded.yaml").write_text(file)
    (tmp_path / "cores").mkdir()
    (tmp_path / "cores/sitecustomize.py").write_text(CORES_FOR_GPUS)
    prepared(tiny_model, **changes, train__accelerate="sharded.yaml")
    done = run_stage("train", warm=False, path=tmp_path / "cores")
    assert done.returncode == 0, done.stderr
    assert curve("loss/total") == pytest.approx(alone[0], rel=tolerance)
    if precision == "bf16":
        return
    assert curve("validation/accuracy") == alone[1]
    for name, weight in weights().items():
        torch.testing.assert_close(weight, alone[2][name], rtol=0.02, atol=1e-3)


def test_nothing_places_the_weights_before_the_trainer(prepared, tiny_model, monkeypatch):
    """Otherwise, on several GPUs, each process would put the whole student on the first one."""
    moved, placed = [], []
    move, begin = torch.nn.Module.to, Trainer.__init__

    def to(module, *arguments, **keywords):
        moved.append(arguments)
        return move(module, *arguments, **keywords)

    def init(trainer, *arguments, **keywords):
        assert not moved
        placed.extend({weight.device.type for weight in keywords["model"].parameters()})
        begin(trainer, *arguments, **keywords)
        assert trainer.args.n_gpu <= 1

    monkeypatch.setattr(torch.nn.Module, "to", to)
    monkeypatch.setattr(Trainer, "__init__", init)
    train(prepared(tiny_model, train__epochs=1))
    assert placed == ["cpu"]


@pytest.mark.parametrize(("rank", "code"), [(None, -signal.SIGABRT), ("1", 0)])
def test_one_of_several_processes_exits_without_teardown(tmp_path, rank, code):
    stage = "atexit.register(os.abort); run_stage(lambda parameters: None, '')"
    program = f"import atexit, os; from stages.distil.interface.command import run_stage; {stage}"
    done = subprocess.run(
        [sys.executable, "-c", program, "--params", PARAMS],
        cwd=tmp_path,
        env=BARE | ({"RANK": rank} if rank else {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr


def test_an_encoder_decoder_cannot_be_sharded(prepared, tiny_t5, tmp_path):
    (tmp_path / "sharded.yaml").write_text(configuration("fsdp.yaml"))
    with pytest.raises(UserError, match="sharded.yaml: FSDP cannot shard an encoder-decoder"):
        launch(prepared(tiny_t5, train__accelerate="sharded.yaml"))


def test_sharded_weights_are_in_float32(prepared, tiny_model, tmp_path):
    (tmp_path / "sharded.yaml").write_text(configuration("fsdp.yaml"))
    changes = {"student__weights": "bfloat16", "student__dtype": "auto"}
    with pytest.raises(UserError, match="FSDP trains float32 weights.*student.weights to float32"):
        launch(prepared(tiny_model, train__accelerate="sharded.yaml", **changes))


def test_a_student_that_only_reasons_learns_the_questions_with_a_rationale(
    prepared, tiny_model, capsys
):
    """`two` explains the odd questions alone."""
    parameters = prepared(
        tiny_model,
        alpha={"one": 0.0, "two": 1.0},
        saliency__weight=0.0,
        student__form="before_answer",
        student__direct=False,
        train__epochs=60,
    )
    train(parameters)
    told = f"{ROWS // 2} of {ROWS} train questions have a rationale that leads to the label"
    assert told in capsys.readouterr().out
    assert not (TRAINING / "plots/metrics/loss/answer.tsv").exists()
    assert curve("loss/two")[-1] < curve("loss/two")[0] / 10
    model, tokenizer = load_model(STUDENT, "float32")
    template = tokenizer.chat_template
    assert template.endswith("\nRationale:") and "enable_thinking" not in template
    assert model.generation_config.max_new_tokens == parameters.evaluate.reasoning_tokens
    write_test_questions()
    evaluate(parameters)
    student = json.loads(tables.METRICS.read_text())["student"]
    assert student["accuracy"] == student["reasoned"]["accuracy"] and "direct" not in student
    [first, *_] = tables.read_table(tables.PREDICTIONS)
    assert "reasoning" in first and not any(name.startswith("direct") for name in first)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_student_that_reasons_needs_a_rationale(prepared, tiny_model, direct, weight):
    """The single question is not explained by `two`, but has words and an answer."""
    changes = {"student__form": "before_answer", "student__direct": direct}
    weights = {"alpha": {"one": 0.0, "two": 1.0}, "saliency__weight": weight}
    with pytest.raises(UserError, match="no train question has a rationale .*form to branch"):
        train(prepared(tiny_model, rows=1, **changes, **weights))


@pytest.mark.parametrize(
    ("texts", "options", "vote"),
    [
        (["aunt", "uncle", "an aunt"], ["aunt", "uncle"], "aunt"),
        (["sister of Bob", "sister of Bob", "aunt"], ["aunt", "uncle"], "aunt"),
        (["aunt or uncle", "aunt or uncle", "uncle"], ["aunt", "uncle"], "uncle"),
        (["sister of Bob", ""], ["aunt", "uncle"], ""),
        (["5", "7 apples", "7 apples"], [], "7 apples"),
    ],
)
def test_a_text_votes_only_for_an_option(texts, options, vote):
    question = Asked(Sample("1", [], []), None, [], options, vote or "aunt")
    found = _voted(texts, question)
    assert found == {"voted_prediction": vote, "voted_correct": bool(vote)}


def test_a_student_of_another_form_always_answers_directly(prepared, tiny_model):
    train(prepared(tiny_model, student__direct=False, train__epochs=1))
    assert curve("loss/answer")


def write_test_questions():
    """Write what `evaluate` reads besides a student and its tokens."""
    for path in (tables.SALIENCY, tables.rationale_table("one"), tables.rationale_table("two")):
        tables.write_table(path, [])
    questions = [distilled(n, "test") for n in range(ROWS)]
    fields = ("id", "question", "options", "answer")
    examples = [{f: q[f] for f in fields} | {"split": "test", "rationales": []} for q in questions]
    tables.write_table(tables.EXAMPLES, examples)


def test_a_student_that_reasons_is_measured_both_ways(prepared, tiny_model):
    """It has learnt the test questions by heart, which are the train questions here."""
    write_test_questions()
    parameters = prepared(
        tiny_model,
        full=True,
        student__form="before_answer",
        train__epochs=100,
        evaluate__reasoning_tokens=40,
        evaluate__samples=3,
        evaluate__explained=4,
    )
    train(parameters)
    evaluate(parameters)
    student = json.loads(tables.METRICS.read_text())["student"]
    assert student["accuracy"] == student["reasoned"]["accuracy"] > 0.9
    assert student["direct"]["accuracy"] > 0.9
    assert "direct" not in student["reasoned"]
    assert student["voted"]["accuracy"] > 0.8 and student["voted"]["samples"] == 3
    assert student["by_option"] == student["reasoned"]["by_option"]
    assert min(student[way]["by_option"]["accuracy"] for way in ("direct", "reasoned")) > 0.9
    assert not CHECKPOINTS.with_name("evaluate").exists()
    assert student["reasoned"]["unanswered"] == 0
    assert 5 < student["reasoned"]["tokens"] < 40
    assert student["reasoning"]["questions"] == 4
    assert student["reasoning"]["f1"] > 0.8
    [first, *_] = tables.read_table(tables.PREDICTIONS)
    assert re.fullmatch(r"Ball \d+ is red\.|Clearly red, as all know\.", first["reasoning"])
    assert (first["prediction"], first["direct_prediction"]) == ("red", "red")
    assert first["correct"] and first["direct_correct"]
    assert first["reasoning_tokens"] > 5
