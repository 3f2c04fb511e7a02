"""A small result of each algorithm, pinned to its version in `storage.versions`.

If a result changed but not its version, stored results of the old code would be used. Raise the
version, then write the new pin: pytest --pin tests/test_versions.py
"""

import json
from collections import Counter

import pytest
from transformers import Trainer

from stages.distil.attribution.attributor import Attributor
from stages.distil.dataset.joining import Join, Targets
from stages.distil.evaluation.probes import read_options
from stages.distil.evaluation.statistics import by_class, f1, score
from stages.distil.interface.catalogue import Kinship, KinshipSizes
from stages.distil.interface.method import Assemble, Saliency
from stages.distil.language.answers import is_correct, parse_answer
from stages.distil.language.quality import rationale_status
from stages.distil.questions.reading import read
from stages.distil.questions.sampling import choose_subset
from stages.distil.storage import tables, versions
from stages.distil.student.answering import generate_answers
from stages.distil.teachers.backend import Request
from stages.distil.teachers.transformers_backend import Generator
from stages.finetune import finetune
from stages.train import train
from stages.usefulness import usefulness
from tests.conftest import ROOT, question
from tests.distil.attribution import test_attributor as attribution
from tests.distil.evaluation.test_usefulness import written
from tests.distil.questions.test_fields import read as read_rows
from tests.students import ROWS, load, options_of, prompt_of
from tests.test_finetune import TUNED
from tests.test_train import curve, prepared  # noqa: F401

PINS = ROOT / "tests/pins.json"
ANSWERED = ["The answer is blue.", "red or green? Green", "nothing", "**blue**"]


def check(algorithm: str, result, pin: bool = False) -> None:
    """Compare a result with the one pinned to its algorithm's version; with `pin`, pin it first."""
    pins = json.loads(PINS.read_text(encoding="utf-8"))
    version = getattr(versions, algorithm)
    pinned = pins.get(algorithm, {"version": 0})
    if pin and pinned["version"] != version:
        pins[algorithm] = pinned = {"version": version, "result": result}
        PINS.write_text(json.dumps(pins, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert pinned["version"] == version, f"pin versions.{algorithm} (see above)"
    assert close(pinned["result"], json.loads(json.dumps(result))), (
        f"{algorithm} gives a different result: raise versions.{algorithm}, then pin it (see above)"
    )


@pytest.fixture
def check_pin(request):
    """Return `check`, which pins new versions with `--pin`."""
    return lambda *result: check(*result, pin=request.config.getoption("--pin"))


def close(a, b) -> bool:
    """Return whether two results are equal up to the rounding of another processor."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(close(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[name], b[name]) for name in a)
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=1e-2, abs=1e-4)
    return a == b


def test_a_pin_tolerates_rounding_only(monkeypatch):
    assert close({"a": [1.0, "x"]}, {"a": [1.001, "x"]})
    assert not close({"a": [1.0]}, {"a": [1.1]})
    assert not close([1.0], [1.0, 2.0])
    assert not close("a", "b")
    with pytest.raises(AssertionError, match="raise versions.EVALUATION"):
        check("EVALUATION", "another result")
    monkeypatch.setattr(versions, "EVALUATION", 0)
    with pytest.raises(AssertionError, match="pin versions.EVALUATION"):
        check("EVALUATION", "another result")


def test_questions(check_pin):
    sizes = KinshipSizes(train=4, validation=1, test=2, pool=1)
    drawn = read(
        Kinship(source="kinship", sizes=sizes, hops=[2, 3], distractors=2), 0, 1000, Counter()
    )
    chosen = choose_subset([f"train-{n}" for n in range(20)], 0.25, None, 0)
    row = {"id": "1", "question": "Who?", "options": ["Ann", "Bob"]}
    keys = ["Bob", "bob", "b", 1, True, 1.0, 2, None]
    rows = [
        row | {"id": str(n), "question": f"Who {n}?", "answer": key} for n, key in enumerate(keys)
    ]
    mapped = [vars(example) for example in read_rows(rows)]
    result = {"drawn": [vars(example) for example in drawn], "chosen": sorted(chosen)}
    check_pin("QUESTIONS", result | {"mapped": mapped})


def test_texts(check_pin, tiny_model, tiny_t5):
    requests = [
        Request(attribution.Conversation("Be brief.", (), f"Why {n} more?", "So:"), 6)
        for n in range(2)
    ]
    texts = [
        [completion.text for _, completion in Generator(model, 400, "float32").complete(requests)]
        for model in (tiny_model, tiny_t5)
    ]
    check_pin("TEXTS", {"texts": texts})


def test_tuning(check_pin, scoring, tiny_model, monkeypatch):
    losses = []
    log = Trainer.log
    monkeypatch.setattr(
        Trainer,
        "log",
        lambda trainer, logs, *rest: losses.append(logs) or log(trainer, logs, *rest),
    )
    finetune(scoring(tiny_model, **TUNED))
    check_pin("TUNING", [logs["loss"] for logs in losses if "loss" in logs])


def test_attribution(check_pin, request):
    result = {}
    for name in attribution.BOTH:
        model, tokenizer, prompts = attribution.load(request, name)
        for method in Saliency.model_fields["method"].annotation.__args__:
            chosen = attribution.settings(method=method, steps=3)
            result[f"{name} {method}"] = attribution.scores(model, tokenizer, prompts, chosen)
        attributor = Attributor(model, attribution.settings(), tokenizer.pad_token_id)
        result[f"{name} labels"] = attributor.log_probabilities(prompts)
    check_pin("ATTRIBUTION", result)


def test_usefulness(check_pin, scoring, tiny_model):
    parameters, _ = written("best", scoring, tiny_model)
    usefulness(parameters, "tiny")
    rows = tables.read_table(tables.usefulness_table("tiny"))
    check_pin("USEFULNESS", [row["usefulness"] for row in rows])


def test_targets(check_pin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [question(n, rationales=[]) | {"split": "train"} for n in range(4)]
    tables.write_table(tables.EXAMPLES, rows)
    text = "The ball of Ann, the red one: Ünïcödé ann 犬"
    spans = [(0, 3), (4, 8), (12, 15), (21, 24), (30, 37), (38, 41), (42, 43)]
    words = [{"start": a, "end": b, "score": 5.0 - n} for n, (a, b) in enumerate(spans)]
    about = {"text": text, "words": words, "method": "any", "target": "any", "delta": None}
    tables.write_table(tables.SALIENCY, [{"id": row["id"]} | about for row in rows[:2]])
    for teacher, statuses in {"one": ["ok"] * 4, "two": ["ok", "empty", "ok", "truncated"]}.items():
        counted = {"sample": 0, "finish_reason": "stop", "prompt_tokens": 1, "output_tokens": 1}
        tables.write_table(
            tables.rationale_table(teacher),
            [
                {"id": row["id"], "split": "train", "status": status, "answer": row["answer"]}
                | {"rationale": f"{teacher} on {row['id']}"}
                | counted
                for row, status in zip(rows, statuses, strict=True)
            ],
        )
    result = {}
    for stop_words in (True, False):
        saliency = Saliency(teacher="any", top_k=3, weight=1, stop_words=stop_words)
        settings = Assemble(statuses=["ok"], scorer="any")
        join = Join(Targets(["one", "two"], settings, saliency, ["two"]))
        result[f"stop words {stop_words}"] = [row for part in join for row in part.to_pylist()]
    result["statuses"] = [
        rationale_status(text, "stop", ["blue", "red"], "blue", None)
        for text in ("", "It is so.", "Hence it is red.", "Hence it is blue.", "a b c d " * 20)
    ] + [rationale_status("So it is BB.", "stop", ["BB", "bb"], "bb", None)]
    check_pin("TARGETS", result)


def test_training(check_pin, prepared, tiny_model):  # noqa: F811
    train(prepared(tiny_model, train__epochs=2))
    check_pin(
        "TRAINING", {name: curve(name) for name in ("loss/total", "loss/one", "loss/saliency")}
    )


def test_evaluation(check_pin, tiny_model):
    options = ["red", "green", "blue"]
    correct = [is_correct(text, {"options": options, "answer": "blue"}) for text in ANSWERED]
    student, encoder = load(tiny_model)
    prompts = [prompt_of(encoder, row, 4) for row in ROWS]
    read = read_options(student, [options_of(encoder, row) for row in ROWS])
    result = {
        "answers": [parse_answer(text, options) for text in ANSWERED],
        "alike": [parse_answer(text, ["C", "C++", "C#"]) for text in ("C++.", "It is C#", "c")],
        "score": score(correct),
        "classes": by_class(correct * 2, ["blue", "red"] * 4),
        "f1": f1(["a", "b"], ["b", "c", "c"]),
        "written": generate_answers(student, prompts, 4),
        "options": [[option.score for option in of_question] for of_question in read],
    }
    check_pin("EVALUATION", result)
