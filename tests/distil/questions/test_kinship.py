import random

import pytest

from stages.distil.interface.catalogue import Kinship
from stages.distil.questions import kinship
from tests.distil.questions.kinship_search import FACT, FEMALE, QUESTION, relations

SIZES = {"train": 60, "validation": 20, "test": 20, "pool": 10}


def settings(hops=(2, 3), distractors=2, **sizes) -> Kinship:
    return Kinship(source="kinship", sizes=SIZES | sizes, hops=list(hops), distractors=distractors)


def test_the_answer_follows_from_the_facts_and_no_other_option_does():
    rng = random.Random(7)
    answers = set()
    for _ in range(2000):
        text, options, answer, _ = kinship.draw_question(rng, [2, 3], 2)
        asked, of = QUESTION.search(text).groups()
        follows = relations(text)[asked, of]
        assert follows & set(options) == {answer}, text
        assert len(set(options)) == 4
        assert len({option in FEMALE for option in options}) == 1, "options of both sexes"
        answers.add(answer)
    assert answers == {
        word for kind, pair in kinship.WORDS.items() if kind not in kinship.CLOSE for word in pair
    }


def test_each_step_of_the_derivation_is_a_fact_and_its_end_is_the_answer():
    rng = random.Random(8)
    for _ in range(500):
        text, _, answer, derivation = kinship.draw_question(rng, [2, 3], 2)
        asked, of = QUESTION.search(text).groups()
        *steps, last = FACT.findall(derivation)
        stated = set(FACT.findall(text))
        assert set(steps) <= stated
        assert last == (asked, answer, of)
        assert derivation.endswith(f"so {asked} is the {answer} of {of}.")


@pytest.mark.parametrize(("hops", "distractors"), [(2, 0), (3, 0), (2, 4), (3, 2)])
def test_hops_and_distractors_set_how_many_facts_lie_on_the_way_and_beside_it(hops, distractors):
    rng = random.Random(9)
    for _ in range(100):
        text, _, _, _ = kinship.draw_question(rng, [hops], distractors)
        facts = FACT.findall(text)
        assert len(facts) == hops + distractors
        asked, of = QUESTION.search(text).groups()
        neighbours = {}
        for a, _, b in facts:
            neighbours.setdefault(a, set()).add(b)
            neighbours.setdefault(b, set()).add(a)
        reached, distance = {asked}, 0
        while of not in reached:
            reached |= {n for person in reached for n in neighbours[person]}
            distance += 1
        assert distance == hops, "a shorter way than the path"


def test_no_question_stands_in_two_splits_and_sizes_are_kept():
    rows = list(kinship.read(settings(), seed=0))
    assert len({row.question for row in rows}) == len({row.id for row in rows}) == len(rows)
    for split, size in SIZES.items():
        assert sum(row.split == split for row in rows) == size


def test_a_larger_train_split_leaves_every_other_question_as_it_is():
    small = list(kinship.read(settings(), seed=0))
    large = list(kinship.read(settings(train=90), seed=0))
    assert set(map(repr, small)) < set(map(repr, large))


def test_the_seed_decides_the_questions():
    assert list(kinship.read(settings(), 0)) == list(kinship.read(settings(), 0))
    assert list(kinship.read(settings(), 0)) != list(kinship.read(settings(), 1))
