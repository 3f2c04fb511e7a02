"""The in-context example generator (TinyLLM, section 3.2): which solved questions a prompt shows.

Knows questions; knows nothing of prompts or of models.
"""

import random
from collections.abc import Sequence

from stages.distil.language.answers import normalise
from stages.distil.storage.examples import Example

Solved = tuple[Example, str]  # a question and the rationale to show


class ExampleGenerator:
    """Choose solved examples for a question: `none`, `random`, `fixed` or `similar`.

    `random` draws for each question anew (the paper's), `fixed` takes the same ones for all, which
    a prefix cache pays for once, `similar` takes the nearest questions by the cosine of their
    TF-IDF vectors, the nearest last. A question is never its own example, nor is one of the same
    text. What a question gets hangs on the pool, the seed and the question alone.
    """

    def __init__(self, pool: Sequence[Solved], how: str, count: int, seed: int):
        self._pool = list(pool)
        self._how = how
        self._count = count
        self._seed = seed
        self._texts = [normalise(example.question) for example, _ in self._pool]
        if how == "similar":
            from sklearn.feature_extraction.text import TfidfVectorizer

            self._vectoriser = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
            self._vectors = self._vectoriser.fit_transform(self._texts)

    def choose(self, example: Example) -> list[Solved]:
        """Return the solved examples for a question, in the order to show them."""
        if self._how == "none":
            return []
        text = normalise(example.question)
        others = [
            place
            for place, (solved, _) in enumerate(self._pool)
            if solved.id != example.id and self._texts[place] != text
        ]
        if self._how == "random":
            draw = random.Random(f"examples {self._seed} {example.id}")
            chosen = draw.sample(others, min(self._count, len(others)))
        elif self._how == "fixed":
            chosen = others[: self._count]
        else:
            near = (self._vectors @ self._vectoriser.transform([text]).T).toarray()[:, 0]
            chosen = sorted(others, key=lambda place: -near[place])[: self._count][::-1]
        return [self._pool[place] for place in chosen]


def data_rationale(example: Example, teacher: str) -> str:
    """Return the rationale that the data carries: the teacher's own, else the first, else none."""
    texts = [example.rationales.get(teacher, ""), *example.rationales.values()]
    return next((text.strip() for text in texts if text.strip()), "")
