"""Questions of any reasoning-gym task, generated with a separate seed for each split.

The answers become options if there are few distinct ones in all splits together.
"""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from stages.distil.interface.catalogue import Gym
from stages.distil.interface.errors import UserError
from stages.distil.storage.examples import POOL, Example, Rejected

DRAWS = 20  # attempts per question before a task counts as too small
WRONG_LABELS = {
    "family_relationships": "its in-law labels are wrong (a daughter-in-law is called "
    "mother-in-law), 65 of 400 in version 0.1.25; kinship has checked ones"
}


def read(settings: Gym, seed: int) -> Iterator[Example | Rejected]:
    """Yield the questions of every split; no question occurs in two splits."""
    drawn = list(_draw(settings, seed))
    answers = sorted({example.answer for example in drawn})
    is_closed = 1 < len(answers) <= settings.max_options
    for example in drawn:
        yield replace(example, options=answers) if is_closed else example


def warning(settings: Gym) -> str | None:
    """Return a warning about a task, or None."""
    fault = WRONG_LABELS.get(settings.task)
    return f"reasoning-gym's {settings.task}: {fault}" if fault else None


def _draw(settings: Gym, seed: int) -> Iterator[Example]:
    seen: set[str] = set()
    for split in ("test", "validation", POOL, "train"):
        size = getattr(settings.sizes, split)
        rows = _task(settings, seed=random.Random(f"{seed} {split}").getrandbits(31), size=size)
        number = 0
        for index in range(size * DRAWS):
            if number == size:
                break
            row = rows[index]
            question, answer = str(row["question"]).strip(), str(row["answer"]).strip()
            if answer and question not in seen:
                seen.add(question)
                yield Example(f"{split}-{number:05d}", split, question, [], answer)
                number += 1
        if number < size:
            raise UserError(
                f"reasoning-gym's {settings.task} has too few distinct questions: {number} of "
                f"{size} for {split}; lower datasets.*.sizes or change its settings"
            )


def _task(settings: Gym, seed: int, size: int) -> Any:
    try:
        from reasoning_gym import create_dataset
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise UserError(f"reasoning-gym is not installed ({error}); `make gym` adds it") from None
    if settings.task not in DATASETS:
        raise UserError(
            f"datasets.*.task: unknown task {settings.task!r} of reasoning-gym; known: "
            f"{', '.join(sorted(DATASETS))}"
        )
    try:
        return create_dataset(settings.task, seed=seed, size=size * DRAWS, **settings.settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"datasets.*.settings of {settings.task}: {error}") from error
