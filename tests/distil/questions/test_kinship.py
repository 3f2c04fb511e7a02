import random

import pytest

from stages.distil.interface.catalogue import Kinship
from stages.distil.questions import kinship
from tests.distil.questions.kinship_search import FACT, FEMALE, QUESTION, relations

SIZES = {"train": 60, "validation": 20, "test": 20, "pool": 10}


def settings(hops=(2, 3), distractors=2, **sizes) -> Kinship:
    return Kinship(source="kinship", sizes=SIZES | sizes, hops=list(hops), distractors=distractors)


def test_only_the_answer_follows_from_the_facts():
    rng = random.Random(7)
    answers = set()
    for _ in range(2000):
        text, options, answer, _ = kinship.draw_question(rng, [2, 3], 2)
        person, other = QUESTION.search(text).groups()
        follows = relations(text)[person, other]
        assert follows & set(options) == {answer}, text
        assert len(set(options)) == 4
        assert len({option in FEMALE for option in options}) == 1, "options of both sexes"
        answers.add(answer)
    assert answers == {
        word for kind, pair in kinship.WORDS.items() if kind not in kinship.CLOSE for word in pair
    }


def test_the_derivation_consists_of_facts_and_ends_with_the_answer():
    rng = random.Random(8)
    for _ in range(500):
        text, _, answer, derivation = kinship.draw_question(rng, [2, 3], 2)
        person, other = QUESTION.search(text).groups()
        *steps, last = FACT.findall(derivation)
        stated = set(FACT.findall(text))
        assert set(steps) <= stated
        assert last == (person, answer, other)
        assert derivation.endswith(f"so {person} is the {answer} of {other}.")


@pytest.mark.parametrize(("hops", "distractors"), [(2, 0), (3, 0), (2, 4), (3, 2)])
def test_hops_and_distractors_count_the_facts_on_and_off_the_path(hops, distractors):
    rng = random.Random(9)
    for _ in range(100):
        text, _, _, _ = kinship.draw_question(rng, [hops], distractors)
        facts = FACT.findall(text)
        assert len(facts) == hops + distractors
        person, other = QUESTION.search(text).groups()
        neighbours = {}
        for a, _, b in facts:
            neighbours.setdefault(a, set()).add(b)
            neighbours.setdefault(b, set()).add(a)
        reached, distance = {person}, 0
        while other not in reached:
            reached |= {n for name in reached for n in neighbours[name]}
            distance += 1
        assert distance == hops, "there is a shorter path"


def test_splits_have_their_sizes_and_share_no_question():
    rows = list(kinship.read(settings(), seed=0))
    assert len({row.question for row in rows}) == len({row.id for row in rows}) == len(rows)
    for split, size in SIZES.items():
        assert sum(row.split == split for row in rows) == size


def test_a_larger_train_split_changes_no_other_question():
    small = list(kinship.read(settings(), seed=0))
    large = list(kinship.read(settings(train=90), seed=0))
    assert set(map(repr, small)) < set(map(repr, large))


def test_the_seed_determines_the_questions():
    assert list(kinship.read(settings(), 0)) == list(kinship.read(settings(), 0))
    assert list(kinship.read(settings(), 0)) != list(kinship.read(settings(), 1))


def test_another_draw_changes_the_test_questions_alone():
    first = settings()
    rows, others = (
        list(kinship.read(first.model_copy(update={"test_draw": draw}), seed=0)) for draw in (2, 3)
    )
    assert rows == list(kinship.read(first, seed=0))
    tests = [{r.question for r in drawn if r.split == "test"} for drawn in (rows, others)]
    assert not tests[0] & tests[1]
    assert [r for r in rows if r.split != "test"] == [r for r in others if r.split != "test"]
