"""Find out which files of a folder hold which split, by their names."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.distil.interface.catalogue import Files, Split
from stages.distil.interface.errors import UserError
from stages.distil.questions.files import COMPRESSIONS, FORMATS, LONGEST_JSON, find_files, format_of

NAMES: dict[Split, set[str]] = {
    "train": {"train", "training"},
    "validation": {"validation", "valid", "val", "dev", "development"},
    "test": {"test", "testing"},
}
MOST_FILES = 10_000  # in the folder; more are not looked through
WORD = re.compile(r"[a-z]+")
HINT = "name the files after train, validation and test, or name one file: make own DATA=FILE"


@dataclass
class Layout:
    """The files of each split, by their paths inside the folder, and what to say about them."""

    folder: Path
    files: dict[Split, list[Path]]
    notes: list[str] = field(default_factory=list)


def find_layout(data: Path) -> Layout:
    """Return the files of each split; those of a single file are those of train.

    Raises `UserError` if there is nothing to read, or several data sets.
    """
    if not data.exists():
        raise UserError(f"{data}: no such file or folder; set DATA to your file or folder")
    if not data.is_dir():
        if not data.is_file():
            raise UserError(f"{data}: expected a file or folder, found a device, pipe or socket")
        return Layout(data.parent, {"train": [Path(data.name)]})
    paths = _data_files(data)
    homes: dict[Path, dict[Split, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        if named := _split_of(path):
            split, home = named
            homes[home][split].append(path)
    with_train = {home: splits for home, splits in homes.items() if "train" in splits}
    if not with_train:
        return _of_one_file(data, paths)
    depth = min(len(home.parts) for home in with_train)
    chosen = [home for home in with_train if len(home.parts) == depth]
    if len(chosen) > 1:
        listed = ", ".join(str(data / home) for home in chosen)
        raise UserError(f"{data}: several data sets: {listed}; name one of them in DATA")
    files = dict(with_train[chosen[0]])
    for split, own in files.items():
        _check_formats(data, split, own)
    used = {path for own in files.values() for path in own}
    layout = Layout(data, files)
    if unused := [str(path) for path in paths if path not in used]:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        layout.notes.append(f"not used, as no split by its name: {', '.join(unused[:3])}{more}")
    return layout


def _data_files(folder: Path) -> list[Path]:
    """Return the paths of the data files inside a folder, in order; raise `UserError` for none."""
    paths: list[Path] = []
    others: list[Path] = []
    for place, top in enumerate(_walk(folder)):
        if place >= MOST_FILES:
            raise UserError(f"{folder}: more than {MOST_FILES:,} files; name one folder of them")
        (paths if format_of(top) in FORMATS else others).append(top)
    if paths:
        return sorted(paths)
    found = ", ".join(sorted({path.suffix or path.name for path in others})[:5]) or "nothing"
    advice = (
        "; `datasets` has stored it (save_to_disk): write its splits with to_parquet"
        if any(path.suffix == ".arrow" for path in others)
        else ""
    )
    raise UserError(
        f"{folder}: no data files: expected {', '.join(FORMATS)}, found {found}{advice}"
    )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files inside a folder, but those whose name or folder begins with `.` or `_`."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in sorted(names):
            if not name.startswith((".", "_")):
                yield (Path(parent) / name).relative_to(folder)


def _split_of(path: Path) -> tuple[Split, Path] | None:
    """Return the split that a file's name or folder names, and the folder that holds that name."""
    for place in range(len(path.parts) - 1, -1, -1):
        words = set(WORD.findall(path.parts[place].lower()))
        named = [split for split, names in NAMES.items() if names & words]
        if len(named) == 1:
            return named[0], Path(*path.parts[:place])
    return None


def _of_one_file(folder: Path, paths: list[Path]) -> Layout:
    """Return the layout of a folder without files of train: its only file, if it has one."""
    if len(paths) > 1:
        listed = ", ".join(map(str, paths[:5]))
        raise UserError(f"{folder}: none of its files is named after train ({listed}); {HINT}")
    return Layout(folder, {"train": paths})


def _check_formats(folder: Path, split: Split, paths: list[Path]) -> None:
    """Raise `UserError` if a split's files seem to hold the same rows in two formats."""
    formats = {format_of(path) for path in paths}
    if len(formats) > 1:
        listed = ", ".join(map(str, paths[:5]))
        raise UserError(
            f"{folder}: {split} is there in several formats ({listed}), perhaps the same rows "
            "twice; remove all but one"
        )


def split_patterns(layout: Layout) -> dict[str, str | list[str]]:
    """Return the `splits` of an entry: patterns where the files' names alone do not suffice."""
    patterns: dict[str, str | list[str]] = {}
    for split, paths in layout.files.items():
        wanted = {layout.folder / path for path in paths}
        if wanted != _matched(Files(source="files", folder=layout.folder), split):
            patterns[split] = _pattern(layout.folder, split, paths)
    return patterns


def _matched(settings: Files, split: Split) -> set[Path]:
    try:
        return set(find_files(settings, split))
    except UserError:
        return set()


def _pattern(folder: Path, split: Split, paths: list[Path]) -> str | list[str]:
    """Return a pattern that the paths and no others match, or else their list."""
    names = [escape(path.as_posix()) for path in paths]
    if len(names) == 1:
        return names[0]
    starred = {re.sub(r"\d+", "*", name) for name in names}
    if len(starred) == 1:
        pattern = starred.pop()
        settings = Files(source="files", folder=folder, splits={split: pattern})
        if _matched(settings, split) == {folder / path for path in paths}:
            return pattern
    return names


def rows_path(layout: Layout) -> str | None:
    """Return the path of the list of rows inside .json files; None if they are lists, or lines.

    Raises `UserError` if a file has several lists of rows, or none.
    """
    paths = [path for own in layout.files.values() for path in own if format_of(path) == ".json"]
    if not paths:
        return None
    path = layout.folder / paths[0]
    if path.stat().st_size > LONGEST_JSON:
        return None  # the reader says that it is too long
    compression = COMPRESSIONS.get(path.suffix.lower())
    with pa.input_stream(str(path), compression=compression) as stream:
        content = stream.read(LONGEST_JSON)
    try:
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None  # JSON lines, or the reader says what is wrong
    if not isinstance(value, dict):
        return None
    lists = list(_lists_of_rows(value, ""))
    if len(lists) != 1:
        found = f"several lists of rows ({', '.join(lists[:5])})" if lists else "no list of rows"
        raise UserError(f"{path}: {found}; write one list of rows, or JSON lines")
    return lists[0]


def _lists_of_rows(value: dict[str, Any], prefix: str) -> Iterable[str]:
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(row, dict) for row in inner):
            yield f"{prefix}{key}"
        elif isinstance(inner, dict) and prefix.count(".") < 3:
            yield from _lists_of_rows(inner, f"{prefix}{key}.")
