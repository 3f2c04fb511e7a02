"""Read questions from any source."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from stages.distil.interface.catalogue import Files, Gym, Hub, Kinship, Split
from stages.distil.interface.errors import UserError
from stages.distil.interface.paths import locate
from stages.distil.questions import files, gym, hub, kinship
from stages.distil.questions.fields import Questions
from stages.distil.storage.content import content
from stages.distil.storage.examples import Example, Rejected


def read(
    settings: Kinship | Gym | Files | Hub, seed: int, max_characters: int, tally: Counter[str]
) -> Iterator[Example | Rejected]:
    """Yield questions and refused rows; a question in two splits is removed from train.

    `tally` counts skipped records and the forms of answers.
    """
    if isinstance(settings, Kinship):
        yield from kinship.read(settings, seed)
    elif isinstance(settings, Gym):
        yield from gym.read(settings, seed)
    else:
        questions = Questions(settings, max_characters, tally)
        source = files if isinstance(settings, Files) else hub
        order: tuple[Split, ...] = ("test", "validation", "train")
        for split in order:
            if split == "validation" and settings.hold_out:
                continue
            rows = questions.accept(source.read(settings, split))
            if split == "train" and settings.hold_out:
                yield from _first(rows, settings.hold_out, as_split="validation")
            yield from _first(rows, getattr(settings.sizes, split))


def data_set_content(settings: Kinship | Gym | Files | Hub) -> dict[str, str]:
    """Return the digests of a data set's local files; other sources are known by their entry.

    Raises `UserError` if its folder is missing.
    """
    if isinstance(settings, Kinship | Gym) or settings.folder is None:
        return {}
    folder = locate(settings.folder)
    if not folder.is_dir():
        raise UserError(f"{settings.folder}: no such folder; set datasets.*.folder")
    if isinstance(settings, Files):
        return content(folder, map(locate, files.split_files(settings)))
    return content(folder, (file for file in sorted(folder.rglob("*")) if file.is_file()))


def _first(
    rows: Iterator[Example | Rejected], limit: int | None, as_split: str | None = None
) -> Iterator[Example | Rejected]:
    """Yield rows up to `limit` questions, moved to the split `as_split` if given."""
    count = 0
    while count != limit and (row := next(rows, None)) is not None:
        if isinstance(row, Example):
            count += 1
            row = replace(row, split=as_split or row.split)
        yield row


def warning(settings: Kinship | Gym | Files | Hub) -> str | None:
    """Return a warning about a source whose labels are unreliable, or None."""
    return gym.warning(settings) if isinstance(settings, Gym) else None
