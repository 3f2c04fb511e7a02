"""Soft labels from a teacher's table to the student's loss."""

import pytest

from stages.assemble import assemble
from stages.distil.attribution.attributor import Attributor
from stages.distil.attribution.prompts import encode_prompt
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import load_parameters
from stages.distil.language.chat import Chat
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.models.loading import load_model
from stages.distil.storage import tables
from stages.encode import encode
from stages.rationales import rationales
from stages.saliency import saliency
from stages.train import train
from tests.conftest import question
from tests.students import write_distill
from tests.test_train import curve

STATUSES = ["ok", "truncated", "repetitive", "contradicts", "inconclusive"]
ROWS = [question(n, question=f"Where is the ball {n}?") for n in range(6)]
TEACHER = "tiny"
SETTINGS = {
    "teachers": [TEACHER],
    "student/model": TEACHER,
    "student/dtype": "float32",
    "rationales/backend": "transformers",
    "rationales/dtype": "float32",
    "rationales/examples": "none",
    "rationales/max_tokens": 6,
    "assemble/statuses": STATUSES,
    "train/epochs": 8,
    "train/learning_rate": 0.01,
    "soft_labels/teacher": TEACHER,
}


@pytest.fixture
def project(scoring, write_params):
    """A function that prepares questions and returns parameters with soft labels."""

    def run(model, rows=ROWS, **changes):
        scoring(model, rows)
        changed = {name.replace("__", "/"): value for name, value in changes.items()}
        return load_parameters(write_params(SETTINGS | changed))

    return run


def test_the_teachers_scores_are_those_of_the_attribution(project, family, capsys):
    """The attribution's log-probabilities are another implementation, of sums over tokens."""
    parameters = project(family)
    rationales(parameters, TEACHER)
    rows = tables.read_table(tables.rationale_table(TEACHER))
    examples = tables.read_examples("train")
    model, tokenizer = load_model(family, "float32")
    attributor = Attributor(model, parameters.saliency, tokenizer.pad_token_id)
    chat, file = Chat(TEACHER, tokenizer), PromptFile(parameters.rationales.prompts.answer)
    for row, example in zip(rows, examples, strict=False):
        prompts = [
            encode_prompt(chat, file.conversation(example), example, o) for o in example.options
        ]
        sums = attributor.log_probabilities(prompts)
        means = [total / len(prompt.label) for total, prompt in zip(sums, prompts, strict=True)]
        assert row["option_scores"] == pytest.approx(means, rel=1e-4)
    assert [row["option_scores"] for row in rows[len(examples) :]] == [None]
    assert f"{3 * len(examples) + len(examples) + 1:,} new" in capsys.readouterr().err
    before = tables.rationale_table(TEACHER).read_bytes()
    rationales(parameters, TEACHER)
    assert "0 new" in capsys.readouterr().err
    assert tables.rationale_table(TEACHER).read_bytes() == before


def test_without_soft_labels_the_tables_have_no_column(project, tiny_model):
    parameters = project(tiny_model, soft_labels__teacher=None)
    rationales(parameters, TEACHER)
    saliency(parameters)
    assemble(parameters)
    for path in (tables.rationale_table(TEACHER), tables.distill_table("train") / "00000.parquet"):
        with tables.open_table(path) as file:
            assert tables.OPTION_SCORES.name not in file.schema_arrow.names


@pytest.mark.parametrize("shared_context", [True, False])
def test_the_student_learns_the_teachers_distribution(project, family, shared_context, capsys):
    """Each question's least likely option, which is not always its answer."""
    own = {"student__shared_context": shared_context, "soft_labels__temperature": 0.5}
    parameters = project(family, soft_labels__weight=10.0, train__batch_size=2, **own)
    rationales(parameters, TEACHER)
    saliency(parameters)
    assemble(parameters)
    told = f"soft labels of {TEACHER}: 6 questions; without: 0 free-form, 0 too long"
    assert told in capsys.readouterr().out
    rows = tables.read_table(tables.distill_table("train"))
    for row in rows:
        least = min(row["option_scores"])
        row["option_scores"] = [0.0 if s == least else -9.0 for s in row["option_scores"]]
    write_distill("train", rows, scores=True)
    encode(parameters)
    train(parameters)
    losses = curve("loss/soft_labels")
    assert losses[-1] < losses[0] / 2
    weights = {"answer": 1.0, "saliency": 0.1, "soft_labels": 10.0}
    parts = {name: curve(f"loss/{name}") for name in weights}
    for n, found in enumerate(curve("loss/total")):
        expected = sum(weights[name] * part[n] for name, part in parts.items())
        assert found == pytest.approx(expected, rel=1e-5)


def test_questions_without_options_alone_are_an_error(project, tiny_model):
    rows = [question(n, options=[], answer="here") for n in range(4)]
    parameters = project(tiny_model, rows)
    rationales(parameters, TEACHER)
    saliency(parameters)
    with pytest.raises(UserError, match=r"tiny scored the options of no train question \(4 are"):
        assemble(parameters)


def test_a_table_of_other_parameters_is_reported(project, tiny_model):
    without = project(tiny_model, soft_labels__teacher=None)
    rationales(without, TEACHER)
    saliency(without)
    assemble(without)
    encode(without)
    with pytest.raises(UserError, match="soft_labels.teacher: data/encoded has no option scores"):
        train(project(tiny_model))
