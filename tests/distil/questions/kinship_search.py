"""Forward chaining over the facts of one kinship question, independent of the generator.

It uses only parents, marriages and siblings and never composes two named relations, so it shares
no tables or algorithms with `stages.distil.questions.kinship`.
"""

import re
from itertools import permutations

FACT = re.compile(r"(\w+) is the ([\w-]+) of (\w+)")
QUESTION = re.compile(r"What is (\w+) to (\w+)\?")
PARENT, CHILD, SIBLING, SPOUSE = (
    {"mother", "father"},
    {"daughter", "son"},
    {"sister", "brother"},
    {"wife", "husband"},
)
FEMALE = set(
    "mother daughter sister wife grandmother granddaughter aunt niece "
    "mother-in-law daughter-in-law sister-in-law".split()
)


def relations(facts: str) -> dict[tuple[str, str], set[str]]:
    """Return every relation that follows from the facts, in words for the first person's sex."""
    parent: set[tuple[str, str]] = set()
    sibling: set[tuple[str, str]] = set()
    spouse: set[tuple[str, str]] = set()
    female: dict[str, bool] = {}
    people: set[str] = set()
    for a, word, b in FACT.findall(facts):
        people |= {a, b}
        assert female.setdefault(a, word in FEMALE) == (word in FEMALE), f"two sexes for {a}"
        if word in PARENT:
            parent.add((a, b))
        elif word in CHILD:
            parent.add((b, a))
        elif word in SIBLING:
            sibling.add((a, b))
        elif word in SPOUSE:
            spouse.add((a, b))
        else:
            raise AssertionError(f"not a basic fact: {word}")
    size = -1
    while size != len(parent) + len(sibling) + len(spouse):
        size = len(parent) + len(sibling) + len(spouse)
        sibling |= {(b, a) for a, b in sibling}
        spouse |= {(b, a) for a, b in spouse}
        sibling |= {(a, c) for a, b in sibling for x, c in sibling if b == x and a != c}
        sibling |= {(a, b) for p, a in parent for q, b in parent if p == q and a != b}
        parent |= {(p, b) for p, a in parent for x, b in sibling if a == x}
        parent |= {(q, a) for p, a in parent for x, q in spouse if p == x}
        spouse |= {(p, q) for p, a in parent for q, b in parent if a == b and p != q}
    kinds_of: dict[tuple[str, str], set[str]] = {}
    for a, b in permutations(sorted(people), 2):
        kinds = set()
        tests = {
            ("mother", "father"): (a, b) in parent,
            ("daughter", "son"): (b, a) in parent,
            ("sister", "brother"): (a, b) in sibling,
            ("wife", "husband"): (a, b) in spouse,
            ("grandmother", "grandfather"): any(
                (a, p) in parent and (p, b) in parent for p in people
            ),
            ("granddaughter", "grandson"): any(
                (b, p) in parent and (p, a) in parent for p in people
            ),
            ("aunt", "uncle"): _pibling(a, b, people, parent, sibling, spouse),
            ("niece", "nephew"): _pibling(b, a, people, parent, sibling, spouse),
            ("mother-in-law", "father-in-law"): any(
                (a, s) in parent and (s, b) in spouse for s in people
            ),
            ("daughter-in-law", "son-in-law"): any(
                (b, s) in parent and (s, a) in spouse for s in people
            ),
            ("sister-in-law", "brother-in-law"): any(
                ((a, s) in sibling and (s, b) in spouse) or ((a, s) in spouse and (s, b) in sibling)
                for s in people
            ),
        }
        for words, holds in tests.items():
            if holds and a in female:
                kinds.add(words[not female[a]])
        kinds_of[a, b] = kinds
    return kinds_of


def _pibling(a, b, people, parent, sibling, spouse) -> bool:
    blood = {p for p in people for q in people if (q, b) in parent and (p, q) in sibling}
    return a in blood or any((a, p) in spouse for p in blood)
