"""The usefulness of rationales against log-probabilities computed one text at a time."""

import pytest
import torch

from stages.distil.evaluation.usefulness import COLUMNS, Scorer
from stages.distil.models.loading import load_model
from stages.distil.storage import tables
from stages.distil.storage.store import Store
from stages.usefulness import usefulness

TEXTS = {  # answers are red, green and blue in turn
    0: ("It rolled. Its box is small, so it is red.", "ok", "It rolled. Its box is small"),
    1: ("", "empty", None),
    3: ("It is red.", "ok", None),  # nothing but a conclusion
    4: ("The ball is under a tree, so it must be green.", "ok", "The ball is under a tree"),
}


def log_probability(model, tokenizer, context: str, answer: str) -> float:
    """Return log p(answer | context), with the prompt of the task that asks for answers."""
    prefix, target = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (f"{context}\nAnswer:", f" {answer}")
    )
    if model.config.is_encoder_decoder:
        context_ids, task = (
            tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (context, "\nAnswer:")
        )
        decoder = [model.config.decoder_start_token_id, *task, *target[:-1]]
        inputs = {"input_ids": context_ids, "decoder_input_ids": decoder}
    else:
        inputs = {"input_ids": [*prefix, *target[:-1]]}
    with torch.no_grad():
        logits = model(**{name: torch.tensor([ids]) for name, ids in inputs.items()}).logits[0]
    return logits[-len(target) :].log_softmax(-1)[range(len(target)), target].sum().item()


def written(choose: str, scoring, family) -> tuple:
    """Prepare questions and a teacher's rationales of some of them; return parameters and rows."""
    parameters = scoring(family)
    assemble = parameters.assemble.model_copy(update={"choose": choose, "scorer": "tiny"})
    student = parameters.student.model_copy(update={"dtype": "float32"})
    parameters = parameters.model_copy(update={"assemble": assemble, "student": student})
    examples = tables.read_examples("train")
    rows = [
        {
            "id": examples[n].id,
            "split": "train",
            "sample": 0,
            "rationale": text,
            "status": status,
            "answer": None,
            "finish_reason": "stop",
            "prompt_tokens": 1,
            "output_tokens": 1,
        }
        for n, (text, status, _) in TEXTS.items()
    ]
    tables.write_table(tables.rationale_table("tiny"), rows)
    return parameters, examples


def test_usefulness_is_the_gain_in_the_answers_log_probability(scoring, family, monkeypatch):
    parameters, examples = written("best", scoring, family)
    usefulness(parameters, "tiny")
    rows = tables.read_table(tables.usefulness_table("tiny"))
    model, tokenizer = load_model(family, "float32", gradients=False)
    expected = []
    for n, (_, _, body) in TEXTS.items():
        example = examples[n]
        context = f"Question: {example.question}\nOptions: {', '.join(example.options)}"
        value = None
        if body is not None:
            explained = log_probability(
                model, tokenizer, f"{context}\nReason 1: {body}", example.answer
            )
            value = explained - log_probability(model, tokenizer, context, example.answer)
        expected.append((example.id, 0, value))
    assert [(row["id"], row["sample"]) for row in rows] == [e[:2] for e in expected]
    for row, (_, _, value) in zip(rows, expected, strict=True):
        assert row["usefulness"] == (value if value is None else pytest.approx(value, abs=1e-4))
    assert sum(value is not None for *_, value in expected) == 2
    # A second run reads the stored values; it loads no weights.
    monkeypatch.setattr("stages.distil.evaluation.usefulness.load_model", None)
    with Store(family.parent / "other.sqlite", "usefulness", COLUMNS) as empty:
        with pytest.raises(TypeError):
            list(Scorer(parameters, "tiny", empty).rows())
    usefulness(parameters, "tiny")
    assert tables.read_table(tables.usefulness_table("tiny")) == rows


def ratio(model, tokenizer, context: str, asks: str, text: str) -> float:
    """Return the Rank-Surprisal Ratio of a rationale, token by token."""
    encoder_decoder = model.config.is_encoder_decoder
    texts = (context, asks) if encoder_decoder else (f"{context}{asks}", "")
    read, before = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in texts)
    target = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
    ranks, surprisals = 0, 0.0
    for n, token in enumerate(target):
        inputs = {"input_ids": [*read, *target[:n]]}
        if encoder_decoder:
            decoder = [model.config.decoder_start_token_id, *before, *target[:n]]
            inputs = {"input_ids": read, "decoder_input_ids": decoder}
        with torch.no_grad():
            tensors = {name: torch.tensor([ids]) for name, ids in inputs.items()}
            scores = model(**tensors).logits[0, -1].log_softmax(-1)
        order = scores.argsort(descending=True).tolist()
        ranks += min(order.index(token) + 1, 100)
        surprisals -= scores[token].item()
    return ranks / surprisals


PREFIXES = {"answer": "predict", "saliency": "words", "tiny": "explain"}


REASONING = {"answer": "predict", "saliency": "words", "rationale": "explain"}


@pytest.mark.parametrize(
    ("form", "prefixes"),
    [
        ("branch", None),
        ("branch", PREFIXES),
        ("before_answer", None),
        ("before_answer", REASONING),
    ],
)
def test_the_rank_surprisal_ratio_is_that_of_each_token(
    scoring, family, monkeypatch, form, prefixes
):
    parameters, examples = written("ratio", scoring, family)
    prompt = parameters.student.prompt.model_copy(update={"prefixes": prefixes})
    student = parameters.student.model_copy(update={"prompt": prompt, "form": form})
    parameters = parameters.model_copy(update={"teachers": ["tiny"], "student": student})
    usefulness(parameters, "tiny")
    rows = tables.read_table(tables.usefulness_table("tiny"))
    model, tokenizer = load_model(family, "float32", gradients=False)
    expected = []
    for n, (text, status, _) in TEXTS.items():
        example = examples[n]
        before = "explain" if prefixes else "Question"
        context = f"{before}: {example.question}\nOptions: {', '.join(example.options)}"
        asks = "\nReason 1:" if form == "branch" else "\nRationale:"
        if prefixes and model.config.is_encoder_decoder:
            asks = ""
        value = None if status != "ok" else -ratio(model, tokenizer, context, asks, text)
        expected.append(value if value is None else pytest.approx(value, rel=1e-4))
    assert [row["usefulness"] for row in rows] == expected
    assert len({str(value) for value in expected}) == 4
    monkeypatch.setattr("stages.distil.evaluation.usefulness.load_model", None)
    usefulness(parameters, "tiny")
    assert tables.read_table(tables.usefulness_table("tiny")) == rows
    prompt = parameters.student.prompt.model_copy(update={"options": "lettered"})
    student = parameters.student.model_copy(update={"prompt": prompt})
    with pytest.raises(TypeError):  # another prompt needs the weights again
        usefulness(parameters.model_copy(update={"student": student}), "tiny")


def test_a_teacher_without_an_accepted_rationale_has_no_usefulness(scoring, tiny_model):
    parameters, _ = written("best", scoring, tiny_model)
    rows = tables.read_table(tables.rationale_table("tiny"))
    tables.write_table(
        tables.rationale_table("tiny"),
        [row | {"rationale": "", "status": "empty"} for row in rows],
    )
    usefulness(parameters, "tiny")
    found = tables.read_table(tables.usefulness_table("tiny"))
    assert [row["usefulness"] for row in found] == [None] * len(TEXTS)


@pytest.mark.parametrize("choose", ["all", "shortest", "random"])
def test_what_nothing_reads_is_not_measured(scoring, tiny_model, monkeypatch, capsys, choose):
    parameters, _ = written(choose, scoring, tiny_model)
    monkeypatch.setattr("stages.distil.evaluation.usefulness.load_model", None)
    usefulness(parameters, "tiny")
    assert tables.read_table(tables.usefulness_table("tiny")) == []
    assert "not measured" in capsys.readouterr().out
