"""Kinship questions from randomly drawn families, after CLUTRR (Sinha et al., EMNLP 2019).

A question gives the facts along a path of relatives and a few unrelated facts, shuffled, and asks
what one person is to another.

Conventions: siblings share both parents, parents are married to each other, and the spouse of an
aunt is an uncle (likewise nieces and nephews by marriage).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from stages.distil.interface.catalogue import Kinship
from stages.distil.storage.examples import POOL, Example

ORACLE = "oracle"

WORDS = {  # kind of relative -> (woman, man)
    "parent": ("mother", "father"),
    "child": ("daughter", "son"),
    "sibling": ("sister", "brother"),
    "spouse": ("wife", "husband"),
    "grandparent": ("grandmother", "grandfather"),
    "grandchild": ("granddaughter", "grandson"),
    "pibling": ("aunt", "uncle"),
    "nibling": ("niece", "nephew"),
    "parent-in-law": ("mother-in-law", "father-in-law"),
    "child-in-law": ("daughter-in-law", "son-in-law"),
    "sibling-in-law": ("sister-in-law", "brother-in-law"),
}

CLOSE = ("parent", "child", "sibling", "spouse")  # stated by facts; questions ask for the others

# COMPOSE[r, s] = t: whoever is r of somebody who is s of A, is t of A. Only what always holds is
# listed: a child of A's grandparent, say, may be A's parent or A's aunt.
COMPOSE = {
    ("parent", "parent"): "grandparent",
    ("parent", "sibling"): "parent",
    ("parent", "spouse"): "parent-in-law",
    ("parent", "child"): "spouse",
    ("child", "parent"): "sibling",
    ("child", "child"): "grandchild",
    ("child", "sibling"): "nibling",
    ("child", "spouse"): "child",
    ("child", "child-in-law"): "grandchild",
    ("child", "sibling-in-law"): "nibling",
    ("sibling", "parent"): "pibling",
    ("sibling", "child"): "child",
    ("sibling", "sibling"): "sibling",
    ("sibling", "spouse"): "sibling-in-law",
    ("sibling", "grandchild"): "grandchild",
    ("sibling", "nibling"): "nibling",
    ("spouse", "parent"): "parent",
    ("spouse", "child"): "child-in-law",
    ("spouse", "sibling"): "sibling-in-law",
    ("spouse", "grandparent"): "grandparent",
    ("spouse", "pibling"): "pibling",
    ("spouse", "parent-in-law"): "parent-in-law",
    ("spouse", "child-in-law"): "child",
}

WOMEN = (
    "Alice Amelia Beatrice Carla Clara Diana Dorothy Edith Elena Emma Fiona Flora Gloria Grace "
    "Hannah Helen Ida Irene Janet Julia Karen Kate Laura Lucy Maria Martha Nadia Nina Olga Olivia "
    "Paula Petra Rachel Rosa Sarah Sophie Tanya Teresa Ursula Vera Violet Wendy Yvonne Zoe"
).split()
MEN = (
    "Adam Albert Arthur Bernard Boris Carl Charles Daniel David Edgar Edward Felix Frank George "
    "Gerald Harold Henry Hugo Isaac Ivan Jack James Kevin Kurt Leo Louis Mark Martin Nathan Neil "
    "Oliver Oscar Paul Peter Ralph Robert Samuel Simon Thomas Tobias Victor Walter William Xavier"
).split()


@dataclass
class Family:
    """Three generations: two couples, their children (one pair of them married), grandchildren."""

    women: set[str] = field(default_factory=set)
    people: list[str] = field(default_factory=list)
    parents: dict[str, tuple[str, str]] = field(default_factory=dict)
    children: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    spouse: dict[str, str] = field(default_factory=dict)

    def relation(self, person: str, other: str) -> str | None:
        """Return the kind of relative that `person` is to `other`, from the family tree."""
        elders, siblings = self._elders, self._siblings
        partner, spouse = self.spouse.get(person), self.spouse.get(other)
        tests = {
            "spouse": person == spouse,
            "parent": person in elders(other),
            "child": other in elders(person),
            "sibling": person in siblings(other),
            "grandparent": any(person in elders(elder) for elder in elders(other)),
            "grandchild": any(other in elders(elder) for elder in elders(person)),
            "pibling": any({person, partner} & siblings(elder) for elder in elders(other)),
            "nibling": any({other, spouse} & siblings(elder) for elder in elders(person)),
            "parent-in-law": person in elders(spouse),
            "child-in-law": other in elders(partner),
            "sibling-in-law": person in siblings(spouse) or partner in siblings(other),
        }
        return next((kind for kind, holds in tests.items() if holds), None)

    def word(self, kind: str, person: str) -> str:
        """Return the English word for a relative of this kind, such as `aunt`."""
        return WORDS[kind][person not in self.women]

    def close_relatives(self) -> dict[tuple[str, str], str]:
        """Return what facts can state: (person, other) to the kind of relative."""
        close: dict[tuple[str, str], str] = {}
        for child, couple in self.parents.items():
            for parent in couple:
                close[parent, child] = "parent"
                close[child, parent] = "child"
            for sibling in self.children[couple]:
                if sibling != child:
                    close[sibling, child] = "sibling"
        for person, spouse in self.spouse.items():
            close[person, spouse] = "spouse"
        return close

    def _elders(self, person: str | None) -> tuple[str, ...]:
        return self.parents.get(person, ()) if person else ()

    def _siblings(self, person: str | None) -> set[str]:
        couple = self.parents.get(person) if person else None
        return {p for p in self.children[couple] if p != person} if couple else set()


def draw_family(rng: random.Random) -> Family:
    """Draw a family of three generations, 9 to 29 people with different names."""
    family = Family()
    women, men = rng.sample(WOMEN, len(WOMEN)), rng.sample(MEN, len(MEN))

    def born(woman: bool, parents: tuple[str, str] | None = None) -> str:
        name = (women if woman else men).pop()
        family.people.append(name)
        if woman:
            family.women.add(name)
        if parents:
            family.parents[name] = parents
            family.children.setdefault(parents, []).append(name)
        return name

    def marry(a: str, b: str) -> tuple[str, str]:
        family.spouse[a], family.spouse[b] = b, a
        return a, b

    def children(couple: tuple[str, str], least: int, most: int) -> list[str]:
        return [born(rng.random() < 0.5, couple) for _ in range(rng.randint(least, most))]

    couples = [marry(born(True), born(False)) for _ in range(2)]
    daughter, son = born(True, couples[0]), born(False, couples[1])
    parents = [marry(daughter, son)]
    for couple in couples:
        for child in children(couple, 1, 2):
            if rng.random() < 0.5:
                parents.append(marry(child, born(child not in family.women)))
    for couple in parents:
        children(couple, 1, 3)
    return family


def compose(close: dict[tuple[str, str], str], path: list[str]) -> str | None:
    """Return the kind of relative that path[0] is to path[-1], if the path determines one.

    Relations are composed step by step from path[-1].
    """
    kind: str | None = close[path[-2], path[-1]]
    for person, through in zip(path[-3::-1], path[-2:0:-1], strict=True):
        kind = COMPOSE.get((close[person, through], kind)) if kind else None
    return kind


def draw_question(
    rng: random.Random, hops: Sequence[int], distractors: int
) -> tuple[str, list[str], str, str]:
    """Draw one question; return (question, options, answer, derivation in words).

    The derivation follows the path from the person in the question; each fact begins with the
    person with whom the previous one ends.
    """
    length = rng.choice(hops)
    while True:
        family = draw_family(rng)
        close = family.close_relatives()
        by_kind: dict[str, list[list[str]]] = {}
        for path in _paths(close, length):
            kind = compose(close, path)
            if kind and kind not in CLOSE:
                by_kind.setdefault(kind, []).append(path)
        if not by_kind:
            continue
        kind = rng.choice(sorted(by_kind))
        path = rng.choice(by_kind[kind])
        unrelated = _unrelated(rng, path, close, distractors)
        if unrelated is not None:
            break
    person, other = path[0], path[-1]
    assert kind == family.relation(person, other), "the path and the family tree must agree"

    def fact(pair: tuple[str, str]) -> str:
        return f"{pair[0]} is the {family.word(close[pair], pair[0])} of {pair[1]}"

    facts = [*pairwise(path), *unrelated]
    rng.shuffle(facts)
    question = f"{' '.join(f'{fact(pair)}.' for pair in facts)} What is {person} to {other}?"
    wrong_kinds = rng.sample([k for k in WORDS if k != kind and k not in CLOSE], 3)
    options = [family.word(k, person) for k in (kind, *wrong_kinds)]
    rng.shuffle(options)
    answer = family.word(kind, person)
    *steps, last = map(fact, pairwise(path))
    derivation = f"{', '.join(steps)} and {last}, so {person} is the {answer} of {other}."
    return question, options, answer, derivation


def _paths(close: dict[tuple[str, str], str], hops: int) -> list[list[str]]:
    """Return every path of `hops` steps over close relatives that visits nobody twice."""
    neighbours: dict[str, list[str]] = {}
    for person, other in close:
        neighbours.setdefault(person, []).append(other)
    paths = [[person] for person in neighbours]
    for _ in range(hops):
        paths = [[*p, other] for p in paths for other in neighbours[p[-1]] if other not in p]
    return paths


def _unrelated(
    rng: random.Random, path: list[str], close: dict[tuple[str, str], str], count: int
) -> list[tuple[str, str]] | None:
    """Draw facts about family members off the path, each about another pair of people."""
    others = [edge for edge in sorted(close) if not set(edge) & set(path)]
    chosen: list[tuple[str, str]] = []
    for a, b in rng.sample(others, len(others)):
        if (b, a) not in chosen and len(chosen) < count:
            chosen.append((a, b))
    return chosen if len(chosen) == count else None


def read(settings: Kinship, seed: int) -> Iterator[Example]:
    """Yield the questions of every split; no question occurs in two splits.

    Each split has its own random numbers, and train comes last, so that a larger train split does
    not change the others.
    """
    seen: set[str] = set()
    for split in ("test", "validation", POOL, "train"):
        draw = f"test {settings.test_draw}" if split == "test" else split
        rng = random.Random(f"kinship {seed} {draw}")
        for number in range(getattr(settings.sizes, split)):
            while True:
                question, options, answer, why = draw_question(
                    rng, settings.hops, settings.distractors
                )
                if question not in seen:
                    break
            seen.add(question)
            yield Example(
                id=f"{split}-{number:05d}",
                split=split,
                question=question,
                options=options,
                answer=answer,
                rationales={ORACLE: [why]},
            )
