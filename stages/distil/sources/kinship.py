"""Kinship questions from drawn families, in the manner of CLUTRR (Sinha et al., EMNLP 2019).

A question gives the facts along a path of relatives and a few facts beside it, shuffled, and asks
what one person is to another. Knows families and English; knows nothing of tables or of models.

Conventions: siblings share both parents, parents are married to each other, and the spouse of an
aunt is an uncle (likewise nieces and nephews by marriage).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, permutations

from stages.distil.examples import POOL, Example
from stages.distil.parameters import Kinship

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

CLOSE = ("parent", "child", "sibling", "spouse")  # what facts state; the others are asked for

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
    spouse: dict[str, str] = field(default_factory=dict)

    def relation(self, person: str, other: str) -> str | None:
        """Return the kind of relative that `person` is to `other`, read off the family itself."""
        siblings, spouse, parents = self._siblings, self.spouse.get, self.parents
        elders = parents.get(other, ())
        partner = spouse(other)
        if person == partner:
            return "spouse"
        if person in elders:
            return "parent"
        if other in parents.get(person, ()):
            return "child"
        if person in siblings(other):
            return "sibling"
        if any(person in parents.get(elder, ()) for elder in elders):
            return "grandparent"
        if any(other in parents.get(elder, ()) for elder in parents.get(person, ())):
            return "grandchild"
        if any({person, spouse(person)} & siblings(elder) for elder in elders):
            return "pibling"
        if any({other, partner} & siblings(elder) for elder in parents.get(person, ())):
            return "nibling"
        if partner is not None and person in parents.get(partner, ()):
            return "parent-in-law"
        if spouse(person) is not None and other in parents.get(spouse(person), ()):
            return "child-in-law"
        if (partner is not None and person in siblings(partner)) or spouse(person) in siblings(
            other
        ):
            return "sibling-in-law"
        return None

    def word(self, kind: str, person: str) -> str:
        """Return the English word for a relative of this kind, such as `aunt`."""
        return WORDS[kind][person not in self.women]

    def fact(self, person: str, other: str) -> str:
        """Return the English word for what `person` is to a close relative."""
        return self.word(self.relation(person, other), person)

    def _siblings(self, person: str) -> set[str]:
        if person not in self.parents:
            return set()
        both = self.parents[person]
        return {p for p in self.people if p != person and self.parents.get(p) == both}


def draw_family(rng: random.Random) -> Family:
    """Draw a family of three generations, 12 to 27 people with names of their own."""
    family = Family()
    women, men = rng.sample(WOMEN, len(WOMEN)), rng.sample(MEN, len(MEN))

    def born(woman: bool, parents: tuple[str, str] | None = None) -> str:
        name = (women if woman else men).pop()
        family.people.append(name)
        if woman:
            family.women.add(name)
        if parents:
            family.parents[name] = parents
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


def derive(family: Family, path: list[str]) -> tuple[str, str] | None:
    """Return (kind, derivation in words) of what path[0] is to path[-1], None if it has no name.

    The kind is composed step by step from path[-1] on. The words walk the path from its start, so
    that each fact begins with the person at whom the one before it ended.
    """
    asked = path[-1]
    kind: str | None = family.relation(path[-2], asked)
    for person, through in zip(path[-3::-1], path[-2:0:-1], strict=True):
        kind = COMPOSE.get((family.relation(person, through), kind))
        if kind is None:
            return None
    *facts, last = [f"{a} is the {family.fact(a, b)} of {b}" for a, b in pairwise(path)]
    so = f"so {path[0]} is the {family.word(kind, path[0])} of {asked}."
    return kind, f"{', '.join(facts)} and {last}, {so}"


def draw_question(
    rng: random.Random, hops: list[int], distractors: int
) -> tuple[str, list[str], str, str]:
    """Draw one question; return (question, options, answer, derivation in words)."""
    length = rng.choice(hops)
    while True:
        family = draw_family(rng)
        edges = {
            (a, b)
            for a, b in permutations(family.people, 2)
            if family.relation(a, b) in CLOSE
        }
        by_kind: dict[str, list[tuple[list[str], str]]] = {}
        for path in _paths(family.people, edges, length):
            derived = derive(family, path)
            if derived and derived[0] not in CLOSE:
                by_kind.setdefault(derived[0], []).append((path, derived[1]))
        if not by_kind:
            continue
        kind = rng.choice(sorted(by_kind))
        path, derivation = rng.choice(by_kind[kind])
        beside = _unrelated(rng, path, edges, distractors)
        if beside is None:
            continue
        facts = [*pairwise(path), *beside]
        rng.shuffle(facts)
        story = " ".join(f"{a} is the {family.fact(a, b)} of {b}." for a, b in facts)
        wrong = rng.sample([k for k in WORDS if k != kind and k not in CLOSE], 3)
        options = [family.word(k, path[0]) for k in (kind, *wrong)]
        rng.shuffle(options)
        question = f"{story} What is {path[0]} to {path[-1]}?"
        return question, options, family.word(kind, path[0]), derivation


def _paths(people: list[str], edges: set[tuple[str, str]], hops: int) -> Iterator[list[str]]:
    partial = [[person] for person in people]
    for _ in range(hops):
        partial = [
            [*path, person]
            for path in partial
            for person in people
            if person not in path and (path[-1], person) in edges
        ]
    yield from partial


def _unrelated(
    rng: random.Random, path: list[str], edges: set[tuple[str, str]], count: int
) -> list[tuple[str, str]] | None:
    """Draw facts about other members of the family, none about the same two people."""
    others = [edge for edge in sorted(edges) if not set(edge) & set(path)]
    chosen: list[tuple[str, str]] = []
    for a, b in rng.sample(others, len(others)):
        if (b, a) not in chosen and len(chosen) < count:
            chosen.append((a, b))
    return chosen if len(chosen) == count else None


def read(settings: Kinship, seed: int) -> Iterator[Example]:
    """Yield the questions of every split; no question stands in two of them.

    Each split has a stream of random numbers of its own, and train comes last, so that a larger
    training split leaves the others as they are.
    """
    seen: set[str] = set()
    for split in ("test", "validation", POOL, "train"):
        rng = random.Random(f"kinship {seed} {split}")
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
                rationales={ORACLE: why},
            )
