"""Weights of rationales from a teacher's table to the student's loss."""

import numpy as np
import pytest

from stages.assemble import assemble
from stages.card import card
from stages.distil.interface.parameters import load_parameters
from stages.distil.models.loading import load_model
from stages.distil.storage import tables
from stages.distil.storage.rationales import usefulness_table
from stages.rationales import rationales
from stages.saliency import saliency
from stages.train import train
from stages.usefulness import usefulness
from tests.conftest import question
from tests.distil.student.test_samples import WEIGHTS, load
from tests.distil.student.test_weights import slow_loss
from tests.test_train import curve

TEACHERS = ["one", "two"]
TEXTS = {"one": "Box {} is small. So it is {}.", "two": "It rolled under tree {}. Hence it is {}."}


def explained(number: int) -> dict:
    """Return a question; every third has one rationale only."""
    answer = question(number)["answer"]
    texts = {teacher: text.format(number, answer) for teacher, text in TEXTS.items()}
    return question(number, rationales=texts if number % 3 else {"one": texts["one"]})


ROWS = [explained(number) for number in range(6)]


@pytest.mark.parametrize("shared_context", [True, False])
def test_useful_rationales_have_more_weight(
    scoring, write_params, family, tmp_path, shared_context, capsys
):
    """Drawn values replace the measured ones, which hardly differ for a tiny model."""
    scoring(family, ROWS)
    config = tmp_path / "models/tiny/config.json"  # dropout is random
    config.write_text(config.read_text().replace('"dropout_rate": 0.1', '"dropout_rate": 0.0'))
    changes = {
        "teachers": TEACHERS,
        "alpha": {teacher: WEIGHTS[teacher] for teacher in TEACHERS},
        "saliency/weight": WEIGHTS["saliency"],
        "assemble/choose": "weighted",
        "assemble/scorer": "tiny",
        "student/model": "tiny",
        "student/dtype": "float32",
        "student/shared_context": shared_context,
        "train/epochs": 1,
        "train/batch_size": len(ROWS),
        "models/one": {"source": "provided"},
        "models/two": {"source": "provided"},
    }
    parameters = load_parameters(write_params(changes))
    useful, random = {}, np.random.default_rng(0)
    for teacher in TEACHERS:
        rationales(parameters, teacher)
        usefulness(parameters, teacher)
        measured = tables.read_table(usefulness_table(teacher))
        given = sum(teacher in row["rationales"] for row in ROWS)
        assert sum(row["usefulness"] is not None for row in measured) == given
        drawn = [row | {"usefulness": row["usefulness"] and random.normal()} for row in measured]
        tables.write_table(usefulness_table(teacher), drawn)
        useful |= {(row["id"], teacher): row["usefulness"] for row in drawn}
    saliency(parameters)
    assemble(parameters)
    assert "two: 4 rationales; without: 2 empty" in capsys.readouterr().out
    rows = tables.read_table(tables.distill_table("train"))
    for row in rows:
        odds = np.exp([useful[row["id"], each["teacher"]] for each in row["rationales"]])
        weights = [each["weight"] for each in row["rationales"]]
        assert weights == pytest.approx(list(len(odds) * odds / odds.sum()))
        assert (weights == [1.0]) == (len(weights) == 1)
    card(parameters)
    train(parameters)
    model, _ = load_model(tmp_path / "models/tiny", "float32")
    _, _, encoder = load(family, shared_context=shared_context)
    with_weights = slow_loss(model, rows, [encoder.samples(row, WEIGHTS) for row in rows])
    assert curve("loss/total") == [pytest.approx(with_weights.item(), rel=1e-5)]
