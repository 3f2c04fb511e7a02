"""Read questions from any source."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from stages.distil.interface.catalogue import Files, FileSizes, Gym, Hub, Kinship, Split
from stages.distil.interface.paths import locate, locate_folder
from stages.distil.questions import files, gym, hub, kinship
from stages.distil.questions.fields import QuestionReader
from stages.distil.questions.sampling import choose_subset
from stages.distil.storage.content import content
from stages.distil.storage.examples import Example, Rejected

ORDER: tuple[Split, ...] = ("test", "validation", "train")  # in which splits are read
HELD_OUT: tuple[Split, ...] = ("test", "validation")  # a larger validation keeps the test


def read(
    settings: Kinship | Gym | Files | Hub, seed: int, max_characters: int, tally: Counter[str]
) -> Iterator[Example | Rejected]:
    """Yield questions and refused rows; a question in two splits is removed from train.

    Questions of a split have the order of its files. `tally` counts skipped records, the forms of
    answers and questions with equal options.
    """
    if isinstance(settings, Kinship):
        yield from kinship.read(settings, seed)
    elif isinstance(settings, Gym):
        yield from gym.read(settings, seed)
    else:
        parts = _parts(settings, seed, max_characters)
        for split, row in _rows(settings, max_characters, tally):
            if isinstance(row, Rejected):
                yield row
            elif (part := next(parts[split]) if parts else split) is not None:
                yield replace(row, split=part)
            else:
                tally["not drawn"] += 1


def _parts(
    settings: Files | Hub, seed: int, max_characters: int
) -> dict[Split, Iterator[Split | None]] | None:
    """Return where each question of a split goes, in order; None for one that is not drawn.

    `hold_out` and `sizes` draw by a seeded digest of the ids (`choose_subset`), since files may be
    sorted; so all of them are read once before. Returns None if nothing is drawn.
    """
    if not any(map(settings.held_out, HELD_OUT)) and settings.sizes == FileSizes():
        return None
    ids: dict[Split, list[str]] = {split: [] for split in ORDER}
    for split, row in _rows(settings, max_characters, Counter()):
        if isinstance(row, Example):
            ids[split].append(row.id)
    parts: dict[Split, Iterator[Split | None]] = {}
    for split, names in ids.items():
        part: list[Split | None] = [split] * len(names)
        rest = list(range(len(names)))
        for other in HELD_OUT if split == "train" else ():
            if size := settings.held_out(other):
                held = choose_subset([names[number] for number in rest], 1.0, size, seed)
                for place in range(len(rest)) if held is None else held:
                    part[rest[place]] = other
                rest = [number for number in rest if part[number] == "train"]
        size = getattr(settings.sizes, split)
        chosen = choose_subset([names[number] for number in rest], 1.0, size, seed)
        for place, number in enumerate(rest):
            if chosen is not None and place not in chosen:
                part[number] = None
        parts[split] = iter(part)
    return parts


def _rows(
    settings: Files | Hub, max_characters: int, tally: Counter[str]
) -> Iterator[tuple[Split, Example | Rejected]]:
    """Yield every row, with the split that it is read from."""
    reader = QuestionReader(settings, max_characters, tally)
    source = files if isinstance(settings, Files) else hub
    for split in ORDER:
        if not settings.held_out(split):
            yield from ((split, row) for row in reader.accept(source.read(settings, split)))


def data_set_content(settings: Kinship | Gym | Files | Hub) -> dict[str, str]:
    """Return the digests of a data set's local files; other sources are known by their entry.

    Raises `UserError` if its folder is missing.
    """
    if isinstance(settings, Kinship | Gym) or settings.folder is None:
        return {}
    folder = locate_folder(settings.folder, "datasets.*.folder")
    if isinstance(settings, Files):
        return content(folder, map(locate, files.own_files(settings)))
    return content(folder, (file for file in sorted(folder.rglob("*")) if file.is_file()))


def warning(settings: Kinship | Gym | Files | Hub) -> str | None:
    """Return a warning about a source whose labels are unreliable, or None."""
    return gym.warning(settings) if isinstance(settings, Gym) else None
