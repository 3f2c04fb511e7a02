"""Each data set of the papers: invented rows in its exact column layout."""

import json
from collections import Counter

import pytest

from stages.distil.interface.parameters import load_parameters
from stages.distil.questions import files, reading
from stages.distil.questions.fields import QuestionReader
from stages.distil.storage.examples import Example, Record
from tests.conftest import PARAMS


def read(name: str, *rows: dict) -> tuple[list, Counter]:
    settings = load_parameters(PARAMS).datasets[name]
    tally: Counter[str] = Counter()
    records = [Record("train", name, n, "", row) for n, row in enumerate(rows, start=1)]
    return list(QuestionReader(settings, 50_000, tally).accept(records)), tally


def choices(*texts: str, labels: str = "ABCDE") -> dict:
    return {"text": list(texts), "label": list(labels[: len(texts)])}


NLI = ["entailment", "neutral", "contradiction"]

LAYOUTS = {
    "openbookqa": (
        {
            "id": "7-980",
            "question_stem": "The sun is responsible for",
            "choices": choices("puppies", "children", "plants", "sofas"),
            "answerKey": " C",
        },
        ("7-980", "The sun is responsible for", ["puppies", "children", "plants", "sofas"]),
        "plants",
    ),
    "arc-challenge": (
        {
            "id": "Q1",
            "question": "Which is warm?",
            "choices": choices("ice", "fire", "3", "1", labels="1234"),
            "answerKey": "2",
        },
        ("Q1", "Which is warm?", ["ice", "fire", "3", "1"]),
        "fire",
    ),
    "arc-easy": (
        {
            "id": "Q2",
            "question": "Which swims?",
            "choices": choices("fish", "bird", "cow"),
            "answerKey": "A",
        },
        ("Q2", "Which swims?", ["fish", "bird", "cow"]),
        "fish",
    ),
    "piqa": (
        {"goal": "Open a jar", "sol1": "Twist the lid.", "sol2": "Eat the lid.", "label": 0},
        ("train-000000", "Open a jar", ["Twist the lid.", "Eat the lid."]),
        "Twist the lid.",
    ),
    "commonsenseqa": (
        {
            "id": "ab",
            "question": "Where do cups stand?",
            "question_concept": "cup",
            "choices": choices("shelf", "sea", "sky", "fire", "ear"),
            "answerKey": "A",
        },
        ("ab", "Where do cups stand?", ["shelf", "sea", "sky", "fire", "ear"]),
        "shelf",
    ),
    "anli": (
        {
            "uid": "u-1",
            "premise": "Ann sings.",
            "hypothesis": "Ann is silent.",
            "label": 2,
            "reason": "",
        },
        ("u-1", "Ann sings.\nDoes it follow that: Ann is silent.", NLI),
        "contradiction",
    ),
    "pubmedqa": (
        {
            "pubid": 21645374,
            "question": "Do cells die?",
            "context": {
                "contexts": ["Cells live.", "Some die."],
                "labels": ["BACKGROUND", "RESULTS"],
                "meshes": ["Cell"],
                "reasoning_required_pred": ["y", "e", "s"],
                "reasoning_free_pred": ["n", "o"],
            },
            "long_answer": "They do.",
            "final_decision": "yes",
        },
        ("21645374", "Cells live.\nSome die.\nDo cells die?", ["yes", "no", "maybe"]),
        "yes",
    ),
    "svamp": (
        {
            "ID": "chal-1",
            "Body": "Ann has 3 pens and buys 2",
            "Question": "How many pens has she?",
            "Equation": "( 3.0 + 2.0 )",
            "Answer": "5.0",
            "Type": "Addition",
            "question_concat": "Ann has 3 pens and buys 2 How many pens has she?",
        },
        ("chal-1", "Ann has 3 pens and buys 2 How many pens has she?", []),
        "5.0",
    ),
    "riddlesense": (
        {
            "id": "r1",
            "question": {
                "stem": "What has a neck and no head?",
                "choices": [
                    {"label": "A", "text": "bottle"},
                    {"label": "B", "text": "cat"},
                ],
            },
            "answerKey": "A",
        },
        ("r1", "What has a neck and no head?", ["bottle", "cat"]),
        "bottle",
    ),
    "esnli": (
        {
            "pairID": "3.jpg#1",
            "gold_label": "neutral",
            "Sentence1": "A man walks.",
            "Sentence2": "He walks home.",
            "Explanation_1": "He may walk elsewhere.",
            "WorkerId": "x",
        },
        ("3.jpg#1", "A man walks.\nDoes it follow that: He walks home.", NLI),
        "neutral",
    ),
    "step-by-step-cqa": (
        {
            "id": "c1",
            "question": "Where is a lid?",
            "choices": ["jar", "jar", "tree", "sea", "sky"],
            "answer": "jar",
            "abstractive_explanation": "jars have lids",
            "extractive_explanation": "lid",
        },
        ("c1", "Where is a lid?", ["jar", "tree", "sea", "sky"]),
        "jar",
    ),
    "step-by-step-svamp": (
        {"input": "Ann has 8 pens in 2 boxes\nHow many in each?", "label": "( 8.0 / 2.0 )"},
        ("train-000000", "Ann has 8 pens in 2 boxes\nHow many in each?", []),
        "( 8.0 / 2.0 )",
    ),
    "tinyllm-obqa": (
        {
            "id": "o1",
            "question": "Fog is near",
            "choices": ["a marsh", "a desert"],
            "answer": "a marsh",
        },
        ("o1", "Fog is near", ["a marsh", "a desert"]),
        "a marsh",
    ),
    "bioasq": (
        {
            "id": "b1",
            "type": "yesno",
            "body": "Is it safe?",
            "exact_answer": "Yes",
            "ideal_answer": ["It is."],
            "documents": [],
            "snippets": [{"text": "It was safe."}, {"text": "No harm was seen."}],
        },
        ("b1", "It was safe.\nNo harm was seen.\nIs it safe?", ["yes", "no"]),
        "yes",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_row_in_the_data_sets_layout_becomes_a_question(name):
    row, (row_id, question, options), answer = LAYOUTS[name]
    (example,), _ = read(name, row)
    assert isinstance(example, Example), example
    assert (example.id, example.question) == (row_id, question)
    assert (example.options, example.answer) == (options, answer)


def test_two_teachers_in_one_string_are_told_apart(tmp_path):
    entry = load_parameters(PARAMS).datasets["tinyllm-obqa"]
    row = {"id": "o1", "question": "Fog is near", "choices": ["a marsh", "a sea"]}
    rows = [row | {"answer": "a marsh"}, row | {"id": "o2", "question": "?", "answer": "a sea"}]
    text = "Fog is wet. Thus, the answer is (a) a marsh\n\nQ: Fog is near\n(a) a marsh llama "
    text += "rationale: Let's think step by step. Marshes are wet."
    (tmp_path / "llm").mkdir()
    (tmp_path / "obqa_train.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "llm/train_CoT_0.json").write_text(json.dumps([text, ""]))
    entry = entry.model_copy(update={"folder": tmp_path})
    example, _ = QuestionReader(entry, 1_000, Counter()).accept(files.read(entry, "train"))
    assert example.rationales == {
        "flan-t5-xl": ["Fog is wet. Thus, the answer is (a) a marsh"],
        "llama2-7b": ["Let's think step by step. Marshes are wet."],
    }


@pytest.mark.parametrize(
    ("name", "prefix", "ending"),
    [
        ("step-by-step-cqa", "cqa", "So the answer is (a) jar."),
        ("step-by-step-svamp", "svamp", "The answer is (8 / 2)."),
    ],
)
def test_a_clone_of_distilling_step_by_step_is_read(tmp_path, name, prefix, ending):
    """Each of twelve train questions has a file of texts of its own: 10 and 11 come last."""
    entry = load_parameters(PARAMS).datasets[name].model_copy(update={"folder": tmp_path})
    key = "input" if prefix == "svamp" else "question"
    rows = [LAYOUTS[name][0] | {"id": f"{n}", key: f"{n}?"} for n in range(14)]
    (tmp_path / "llm").mkdir()
    for split, part in {"train": rows[:12], "test": rows[12:]}.items():
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{prefix}_{split}.json").write_text(lines)
    for n in range(12):
        text = f"It is {n}. {ending}\n\nQ: What else?\nA: It is 9."
        (tmp_path / f"llm/train_CoT_{n}.json").write_text(json.dumps([text]))
    (tmp_path / "llm/test_CoT_0.json").write_text(json.dumps(["It is so."] * 2))
    found = list(reading.read(entry.model_copy(update={"hold_out": 2}), 0, 1_000, Counter()))
    assert Counter(row.split for row in found) == {"train": 10, "validation": 2, "test": 2}
    for example in found:
        number = example.question.removesuffix("?")
        written = {"palm-540b": [f"It is {number}. {ending}"]}
        assert example.rationales == ({} if example.split == "test" else written)


def test_every_data_set_of_the_papers_is_tested():
    catalogue = load_parameters(PARAMS).datasets
    own = {"kinship", "syllogism", "arc", "obqa", "cqa", "shuffled"}
    own |= {"svamp-rationales", "esnli-rationales"}
    assert set(LAYOUTS) == set(catalogue) - own


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("piqa", {"label": -1}, "-1, which means that there is no label"),
        ("commonsenseqa", {"answerKey": ""}, "answer: empty"),
        ("arc-easy", {"answerKey": "E"}, "answer 'E' is none of the names in choices.label"),
        ("pubmedqa", {"context": {"labels": []}}, "context.contexts: missing"),
        ("anli", {"label": 3}, "answer '3' is not one of the options"),
    ],
)
def test_a_row_without_a_label_is_refused(name, change, reason):
    (row,), _ = read(name, LAYOUTS[name][0] | change)
    assert reason in row.reason


def test_human_explanations_are_rationales():
    (example,), _ = read("esnli", LAYOUTS["esnli"][0])
    assert example.rationales == {"human": ["He may walk elsewhere."]}


def test_other_types_of_bioasq_questions_are_skipped_and_counted():
    row = LAYOUTS["bioasq"][0]
    rows, tally = read("bioasq", row, row | {"id": "b2", "type": "factoid"})
    assert [r.id for r in rows] == ["b1"]
    assert tally == {"answer by text": 1, "left out by where": 1}


def test_the_forms_of_answers_are_counted():
    _, tally = read("arc-challenge", LAYOUTS["arc-challenge"][0])
    assert tally == {"answer by name": 1}
    _, tally = read("piqa", LAYOUTS["piqa"][0])
    assert tally == {"answer by index": 1}
