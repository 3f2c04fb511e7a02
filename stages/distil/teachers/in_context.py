"""The in-context example generator (TinyLLM, section 3.2): the solved questions in a prompt."""

import random
from collections.abc import Sequence

from stages.distil.language.answers import normalise
from stages.distil.language.words import spread
from stages.distil.storage.examples import Example

Solved = tuple[Example, str]  # a question and the rationale to show


class ExampleGenerator:
    """Choose solved examples for a question: `none`, `random`, `fixed` or `similar`.

    `random` draws separately for each question, as in the paper. `fixed` takes the same examples
    for all questions, so that a prefix cache computes them once. `similar` takes the nearest
    questions by the cosine of their TF-IDF vectors, the nearest last. A question's examples never
    include a question with its id or its text; they depend only on the pool, the seed and the
    question.
    """

    def __init__(self, pool: Sequence[Solved], strategy: str, count: int, seed: int):
        self._pool = list(pool)
        self._strategy = strategy
        self._count = count
        self._seed = seed
        self._texts = [normalise(example.question) for example, _ in self._pool]
        if strategy == "similar":
            from sklearn.feature_extraction.text import TfidfVectorizer

            self._vectoriser = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
            self._vectors = self._vectoriser.fit_transform(map(spread, self._texts))

    def choose(self, example: Example) -> list[Solved]:
        """Return the solved examples for a question, in the order to show them."""
        if self._strategy == "none":
            return []
        text = normalise(example.question)
        others = [
            index
            for index, (solved, _) in enumerate(self._pool)
            if solved.id != example.id and self._texts[index] != text
        ]
        if self._strategy == "random":
            draw = random.Random(f"examples {self._seed} {example.id}")
            chosen = draw.sample(others, min(self._count, len(others)))
        elif self._strategy == "fixed":
            chosen = others[: self._count]
        else:
            similarity = (self._vectors @ self._vectoriser.transform([spread(text)]).T).toarray()[
                :, 0
            ]
            chosen = sorted(others, key=lambda index: -similarity[index])[: self._count][::-1]
        return [self._pool[index] for index in chosen]


def data_rationale(example: Example, teacher: str) -> str:
    """Return a rationale from the data: the teacher's own, else the first, else an empty text."""
    every = [example.rationales.get(teacher, []), *example.rationales.values()]
    return next((text.strip() for texts in every for text in texts if text.strip()), "")
