"""The stage under tiny models of both architectures."""

import re
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.distil.attribution.prompts import encode_prompt
from stages.distil.attribution.word_scores import ATTRIBUTIONS
from stages.distil.interface.errors import UserError
from stages.distil.language.chat import Chat
from stages.distil.language.student_prompts import question_text
from stages.distil.language.teacher_prompts import PromptFile
from stages.distil.language.words import find_words
from stages.distil.models.loading import load_model
from stages.distil.storage import tables
from stages.distil.storage.examples import Example
from stages.distil.storage.rationales import accepted_rationales
from stages.saliency import saliency
from tests.conftest import BARE, ROOT, TRAIN, question
from tests.distil.attribution.test_attributor import embedded, log_probability
from tests.warm_python import interpreter


@pytest.fixture
def scored(scoring, capsys):
    """Run `prepare` and `saliency` with changed parameters; return what they print to stderr."""

    def run(model, rows=None, **changes) -> str:
        saliency(scoring(model, rows, **changes))
        return capsys.readouterr().err

    return run


def read_scores() -> list[dict]:
    return tables.read_table(tables.SALIENCY)


def test_each_word_of_every_train_question_has_a_score(scored, family):
    scored(family)
    rows = read_scores()
    examples = tables.read_examples("train")
    assert [row["id"] for row in rows] == [example.id for example in examples]
    for row, example in zip(rows, examples, strict=True):
        words = [row["text"][word["start"] : word["end"]] for word in row["words"]]
        parts = [example.question, *example.options]
        assert words == [part[a:b] for part in parts for a, b in find_words(part, [(0, 99)])]
        assert all(word["score"] for word in row["words"])
        assert (row["method"], row["target"], row["delta"]) == (
            "input_x_gradient",
            example.answer,
            None,
        )


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
def test_other_methods_run_and_are_named_in_the_table(scored, tiny_model, method):
    scored(tiny_model, method=method, steps=3)
    rows = read_scores()
    assert {row["method"] for row in rows} == {method}
    assert all((row["delta"] is not None) == (method == "integrated_gradients") for row in rows)


def test_random_scores_depend_on_the_question_alone(scored, tiny_model, tmp_path):
    scored(tiny_model, method="random")
    table = tables.SALIENCY.read_bytes()
    shutil.rmtree(tmp_path / ".cache")
    scored(tiny_model, method="random")
    assert tables.SALIENCY.read_bytes() == table
    scores = [[word["score"] for word in row["words"]] for row in read_scores()]
    drawn = [score for row in scores for score in row]
    assert len(set(drawn)) == len(drawn)
    assert 0 <= min(drawn) < 0.2 < 0.8 < max(drawn) <= 1
    first = [row.index(max(row)) for row in scores]
    assert len(set(first)) > 2  # no place is preferred


def test_random_scores_load_no_weights(scored, tiny_model, tmp_path):
    scored(tiny_model, method="random")
    table = tables.SALIENCY.read_bytes()
    file = tmp_path / "models/tiny/model.safetensors"
    weights = load_file(file)
    save_file({name: weight * torch.nan for name, weight in weights.items()}, file)
    scored(tiny_model, method="random")
    assert tables.SALIENCY.read_bytes() == table


OPINIONS = [  # a question's rationale, its status, and what the teacher reads of it
    ("Balls roll, balls are here. So it is red.", "ok", "Balls roll, balls are here."),
    ("It is no sky, so it is green.", "ok", "It is no sky"),
    ("Blue.", "ok", ""),  # nothing but a conclusion
    ("It is as red as", "truncated", ""),
    (None, "empty", ""),
    ("Grass grows: Ünïcödé; the ball is blue", "ok", "Grass grows: Ünïcödé"),
]


@pytest.fixture
def explained(scoring, capsys):
    """Run `saliency` on questions with OPINIONS as the teacher's rationales; return its output."""

    def run(model, opinions=OPINIONS, **changes) -> str:
        rows = [question(n, question=f"Where is the ball {n}?") for n in range(len(opinions))]
        parameters = scoring(model, rows, **changes)
        counts = {"finish_reason": "stop", "prompt_tokens": 1, "output_tokens": 1}
        about = counts | {"split": "train", "sample": 0, "answer": None}
        tables.write_table(
            tables.rationale_table("tiny"),
            [
                about | {"id": row["id"], "rationale": text, "status": status}
                for row, (text, status, _) in zip(rows, opinions, strict=True)
            ],
        )
        capsys.readouterr()
        saliency(parameters)
        return "".join(capsys.readouterr())

    return run


def words_and_scores(model, tokenizer, example, rationale: str) -> list[tuple[str, float]]:
    """Return each word of question and rationale with its gradient × input, one at a time."""
    asked = f"{question_text(example.question, example.options)}\n{rationale}"
    instruction = "Answer with one of the options and nothing else."
    if tokenizer.chat_template:
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": asked}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        label = tokenizer.encode(example.answer)
    else:
        text = f"{instruction}\n\n{asked}\nAnswer:"
        label = tokenizer.encode(f" {example.answer}", add_special_tokens=False)
    encoded = tokenizer(
        text, return_offsets_mapping=True, add_special_tokens=not tokenizer.chat_template
    )
    embeddings = embedded(model, encoded["input_ids"]).requires_grad_()
    log_probability(model, embeddings, label).backward()
    products = (embeddings * embeddings.grad).sum(-1).tolist()
    start = text.index(asked)
    return [
        (
            match[0],
            sum(
                product
                for (a, b), product in zip(encoded["offset_mapping"], products, strict=True)
                if a < match.end() and b > match.start()
            ),
        )
        for match in re.compile(r"\w+").finditer(text, start, start + len(asked))
        if match[0] != "Options"
    ]


@pytest.mark.parametrize("of", ["rationale", "both"])
def test_words_of_the_teachers_rationale_are_scored_after_the_question(explained, family, of):
    """Against autograd on one prompt at a time; the conclusion is not part of it."""
    output = explained(family, of=of)
    assert "3 of 6 train questions scored" in output
    assert "3 train questions have no words: tiny has no rationale for them that is ok" in output
    model, tokenizer = load_model(family, "float32")
    rows = {row["id"]: row for row in read_scores()}
    for example, (_, _, rationale) in zip(tables.read_examples("train"), OPINIONS, strict=True):
        if not rationale:
            assert example.id not in rows
            continue
        row = rows[example.id]
        assert row["text"] == f"{question_text(example.question, example.options)}\n{rationale}"
        expected = words_and_scores(model, tokenizer, example, rationale)
        if of == "rationale":
            expected = expected[-len(re.findall(r"\w+", rationale)) :]
        found = [(row["text"][w["start"] : w["end"]], w["score"]) for w in row["words"]]
        assert [word for word, _ in found] == [word for word, _ in expected]
        largest = max(abs(score) for _, score in expected)
        for (_, ours), (_, theirs) in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-3 * largest)


def test_each_prompt_has_a_key_of_its_own(explained, tiny_model):
    for of in ("question", "rationale", "both"):
        assert " 0 found" in explained(tiny_model, of=of)
        table = tables.SALIENCY.read_bytes()
        assert " 0 new" in explained(tiny_model, of=of)
        assert tables.SALIENCY.read_bytes() == table


def test_the_teachers_own_prediction_is_made_after_its_rationale(explained, family):
    explained(family, of="rationale", target="prediction")
    model, tokenizer = load_model(family, "float32")
    opinions = {f"train-{n}": told for n, (_, _, told) in enumerate(OPINIONS)}
    assert {row["id"]: row["target"] for row in read_scores()} == {
        name: answer for name, answer in predictions(family, opinions).items() if opinions[name]
    }


def test_the_statuses_of_the_training_decide_which_rationales_are_read(explained, tiny_model):
    explained(tiny_model, of="rationale")
    assert "train-3" not in {row["id"] for row in read_scores()}
    opinions = [("It is round. It is as", "truncated", "")] * 2
    with pytest.raises(UserError, match="'rationale' finds no rationale of tiny that is ok and "):
        explained(tiny_model, opinions, of="rationale")


def test_the_first_accepted_sample_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples = [("a", "ok", "1"), ("a", "ok", "2"), ("b", "empty", None), ("b", "truncated", "3")]
    counts = {"finish_reason": "stop", "prompt_tokens": 1, "output_tokens": 1}
    rows = [
        counts
        | {"id": name, "split": "train", "sample": n, "answer": None}
        | {"status": status, "rationale": text}
        for n, (name, status, text) in enumerate(samples)
    ]
    tables.write_table(tables.rationale_table("tiny"), rows)
    examples = [Example(name, "train", "?", [], "") for name in "0ab"]
    read = accepted_rationales(examples, "tiny", ["ok", "truncated"])
    assert [text for _, text in read] == ["", "1", "3"]
    with pytest.raises(UserError, match="tiny.parquet: row 'b' belongs to no question, or is not"):
        list(accepted_rationales(examples[:2], "tiny", ["ok"]))


def predictions(folder, rationales: dict[str, str] | None = None) -> dict[str, str]:
    """Return the option with the largest mean log-probability, computed one at a time."""
    rationales = rationales or {}
    model, tokenizer = load_model(folder, "float32")
    wording = PromptFile(ROOT / "stages/prompts/answer.jinja")
    best, chat = {}, Chat("", tokenizer)
    for example in tables.read_examples("train"):
        means = []
        for option in example.options:
            conversation, told = wording.conversation(example), rationales.get(example.id, "")
            prompt = encode_prompt(chat, conversation, example, option, told)
            with torch.no_grad():
                value = log_probability(model, embedded(model, prompt.ids), prompt.label)
            means.append(value.item() / len(prompt.label))
        best[example.id] = example.options[means.index(max(means))]
    return best


def test_the_target_can_be_the_teachers_own_prediction(scored, family):
    scored(family, target="prediction")
    assert {row["id"]: row["target"] for row in read_scores()} == predictions(family)
    assert "0 new" in scored(family, target="prediction")


def test_only_correct_leaves_out_questions_that_the_teacher_answers_wrongly(scored, family):
    scored(family)
    predicted = predictions(family)
    rows = [
        question(n, question=f"Where is the ball {n}?", answer=predicted[f"train-{n}"])
        for n in range(TRAIN)
    ]
    wrong = {0, 5, TRAIN - 1}
    for n in wrong:
        rows[n]["answer"] = next(o for o in rows[n]["options"] if o != rows[n]["answer"])
    scored(family, rows, only_correct=True)
    remaining = [f"train-{n}" for n in range(TRAIN) if n not in wrong]
    assert [row["id"] for row in read_scores()] == remaining
    all_wrong = [rows[n] for n in sorted(wrong)]
    with pytest.raises(UserError, match="tiny answers no train question correctly; set saliency.o"):
        scored(family, all_wrong, only_correct=True)
    assert len(read_scores()) == len(remaining)  # the previous table


def test_the_prediction_of_a_free_form_question_is_the_teachers_text(scored, family):
    rows = [question(n, options=[], answer=f"place {n}") for n in range(3)]
    scored(family, rows, target="prediction")
    assert [row["id"] for row in read_scores()] == ["train-0", "train-1", "train-2"]


KILLS = """
import os, random, signal
from stages.saliency import saliency
from stages.distil.attribution.attributor import Attributor
from stages.distil.storage.store import Store
from stages.distil.interface.parameters import load_parameters
parameters, drawn = load_parameters("params.yaml"), random.Random(7)
for _ in range(10):
    kind, name = drawn.choice([(Attributor, "score"), (Store, "insert"), (Store, "select")])
    call, after = drawn.randint(1, 2), drawn.random() < 0.5
    child = os.fork()  # this process opens no store: a connection to SQLite must not cross a fork
    if not child:
        original, calls = getattr(kind, name), []
        def method(*arguments):
            calls.append(name)
            result = original(*arguments) if after or len(calls) < call else None
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(kind, name, method)
        saliency(parameters)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, name
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(scored, tiny_model, tmp_path):
    """Each attempt is a fork of one process that has imported everything, killed with SIGKILL."""
    scored(tiny_model, batch_tokens=1)  # one row per batch
    uninterrupted = (tmp_path / tables.SALIENCY).read_bytes()
    shutil.rmtree(tmp_path / ATTRIBUTIONS.parent)
    (tmp_path / tables.SALIENCY).unlink()
    killed = subprocess.run(
        [interpreter(), "-c", KILLS],
        cwd=tmp_path,
        env=BARE,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == 0, killed.stderr
    assert not (tmp_path / tables.SALIENCY).exists()
    stderr = scored(tiny_model, batch_tokens=1)
    stored = int(stderr.split(" new, ")[1].split(" found")[0])
    assert 0 < stored < TRAIN
    assert (tmp_path / tables.SALIENCY).read_bytes() == uninterrupted
