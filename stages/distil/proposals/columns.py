"""Which columns of some rows may be which field of a question, by their names and values.

These are guesses in an order of preference; `proposal` reads the rows to find out which are right.
"""

import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from stages.distil.questions.fields import OPTION_FIELD, BadRowError, follow

MOST_COLUMNS = 200
DEEPEST = 4  # steps of a path
MOST_CLASSES = 8  # distinct answers that may be the same options for every question
RATIONALE = re.compile(r"rationale|expla|reason|justif|chain|thought|\bcot\b|\bexp\b|\bwhy\b")
SOLUTION = re.compile(r"solution")
ANSWER = re.compile(
    r"answer|label|gold|target|correct|\bans\b|\bkey\b|\bcop\b|\boutput\b|\bresult\b|\bresponse\b|"
    r"\bclass\b|\by\b|decision|verdict|solution"
)
ABOUT_ANSWER = re.compile(r"\b(type|start|end|id|ids|length|source|url|by|time|date|prefix)$")
OPTION_LIST = re.compile(r"option|choice|candidate|alternative|ending|answers")
NAMES = re.compile(r"\b(labels?|keys?|letters?|ids?|names?)$")  # of options
OPTION = re.compile(  # a column of one option, without its letter or number
    r"|op|opt|options?|choices?|cand|candidates?|alternatives?|endings?|answers?|ans|sol|"
    r"solutions?|variants?|responses?"
)
PEOPLE = re.compile(r"human|annotator|person|worker|writer")
ID = re.compile(r"(?:\b|^)(?:[a-z]*id|idx|index|qid|key)$")
# Words of a question's name, the best first.
ASKED = (
    *("question", "query", "problem", "stem", "hypothesis", "sentence2", "prompt"),
    *("instruction", "goal", "claim", "statement", "input", "sentence", "text"),
)
CONTEXT = (
    *("context", "passage", "article", "story", "paragraph", "premise", "sentence1"),
    *("background", "document", "body"),
)
ENTAILED = ("hypothesis", "sentence2")
LISTED = re.compile(r"\s*\[.*\]\s*|[^|]+(?:\|[^|]+)+|[^;]+(?:;[^;]+)+", re.DOTALL)
SEVERAL = re.compile(r"\b(options|choices|candidates|alternatives)\b")
SEPARATED = re.compile(r"\S\s*[,\n]\s*\S|\bB\s?[).:]", re.IGNORECASE)


@dataclass(frozen=True)
class Column:
    """A path of the rows, and its value in each; None where it is missing or null."""

    path: str
    values: Sequence[Any]

    @property
    def name(self) -> str:
        """The words of the path, in lower case: `choices.text` and `choicesText` are alike."""
        spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.path)
        return " ".join(re.findall(r"[a-z0-9]+", spaced.lower()))

    @property
    def present(self) -> list[Any]:
        """The values that are there."""
        return [value for value in self.values if value is not None]

    @property
    def filled(self) -> list[Any]:
        """The values that are there and not empty."""
        return [value for value in self.present if value != ""]

    def mostly(self, *kinds: type) -> bool:
        """Return whether nine of ten rows have a value, and nearly all values have these types."""
        fitting = sum(isinstance(value, kinds) and value != "" for value in self.values)
        return fitting >= 0.9 * len(self.values) > 0

    @property
    def is_text(self) -> bool:
        """Whether it holds texts."""
        return self.mostly(str)

    @property
    def is_scalar(self) -> bool:
        """Whether it holds single texts, numbers, truth values, or lists of one of them."""
        values = [v[0] if isinstance(v, list) and len(v) == 1 else v for v in self.values]
        return Column(self.path, values).mostly(str, int, float, bool)


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of rows; objects inside them are columns of their own."""
    paths: dict[str, None] = {}
    for row in rows:
        for path in _paths(row, ""):
            if len(paths) < MOST_COLUMNS:
                paths.setdefault(path)
    return [Column(path, [_value(row, path) for row in rows]) for path in paths]


def _paths(value: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, inner in value.items():
        if not key or re.search(r"[{}]", key) or (prefix and "." in key):
            continue
        path = f"{prefix}{key}"
        items = inner if isinstance(inner, list) else [inner]
        objects = [item for item in items if isinstance(item, Mapping)]
        if not objects:
            yield path
        elif path.count(".") < DEEPEST:
            for each in objects:
                yield from _paths(each, f"{path}.")


def _value(row: Mapping[str, Any], path: str) -> Any:
    try:
        return follow(row, path)
    except BadRowError:
        return None


def questions(columns: Sequence[Column]) -> list[str]:
    """Return paths and templates of the question, the best first; none if no column holds texts."""
    texts = [column for column in columns if column.is_text and not RATIONALE.search(column.name)]
    named = [column for column in texts if not ID.search(column.name)]
    asked = _best(named, ASKED)
    if asked is None:
        if not texts:
            return []
        asked = max(texts, key=lambda column: sum(map(len, map(str, column.present))))
    others = [column for column in columns if column.path != asked.path]
    context = _best([c for c in others if c.is_text or c.mostly(list)], CONTEXT)
    if context is None:
        return [asked.path]
    if asked.name in ENTAILED and has_entailment(columns):
        return [f"{{{context.path}}}\nDoes it follow that: {{{asked.path}}}"]
    joint = " " if context.name.endswith("body") else "\n"
    return [f"{{{context.path}}}{joint}{{{asked.path}}}", asked.path]


def has_entailment(columns: Sequence[Column]) -> bool:
    """Return whether the rows ask whether one sentence follows from another."""
    names = {column.name for column in columns}
    if {"premise", "hypothesis"} <= names:
        return True
    pair = {"sentence1", "sentence2"} <= names
    return pair and any("entailment" in column.values for column in columns)


def _best(columns: Sequence[Column], words: Sequence[str]) -> Column | None:
    """Return the column with the best word in its name, of those the one with the shortest name.

    A column whose name is the word comes before all that only end in one, and these before all that
    contain one.
    """
    for fits in (
        lambda name, word: name == word,
        lambda name, word: name.split()[-1:] in ([word], [f"{word}s"]),
        lambda name, word: word in name.split(),
    ):
        for word in words:
            if fitting := [column for column in columns if fits(column.name, word)]:
                return min(fitting, key=lambda column: len(column.name))
    return None


def options(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Return the fields `options` and `option_names` of columns that hold each row's options."""
    found: list[dict[str, Any]] = []
    for column in columns:
        if not column.mostly(list) or not OPTION_LIST.search(column.name):
            continue
        values = [v for v in column.present if isinstance(v, list)]
        if not all(isinstance(item, str | int | float | None) for v in values for item in v):
            continue
        if sum(len(v) > 1 for v in values) < 0.9 * len(values):
            continue
        siblings = [c for c in columns if _parent(c) == _parent(column) and c is not column]
        if NAMES.search(column.name) and any(_may_name(column, other) for other in siblings):
            continue  # the names of the other column's options
        names = [c for c in siblings if NAMES.search(c.name) and _may_name(c, column)]
        found += [{"options": column.path, "option_names": each.path} for each in names]
        if not names:
            found.append({"options": column.path})
    found += [{"options": paths} for paths in _series(columns)]
    # The default path needs no entry, and a longer path is more likely to be something else.
    return sorted(found, key=lambda each: each["options"] != "options")


def _parent(column: Column) -> str:
    return column.path.rpartition(".")[0]


def _may_name(names: Column, listed: Column) -> bool:
    """Return whether a column's lists are as long as those of the options, without repetition."""
    pairs = [pair for pair in zip(names.values, listed.values, strict=True) if pair[1] is not None]
    return all(isinstance(value, list) for pair in pairs for value in pair) and all(
        len(own) == len(texts) == len(set(map(str, own))) for own, texts in pairs
    )


def _series(columns: Sequence[Column]) -> list[list[str]]:
    """Return the paths of options in columns of their own: A, B, C or option_1, option_2.

    Cells may be empty, even those of a whole column: other rows may have more options.
    """
    groups: dict[tuple[str, str], dict[int, Column]] = defaultdict(dict)
    for column in columns:
        match = re.fullmatch(r"(.*?)([A-Z]|[a-z]|\d{1,2})", column.path)
        if not match or (column.filled and not Column(column.path, column.filled).is_scalar):
            continue
        stem = re.sub(r"[^a-z]", "", match[1].rpartition(".")[2].lower())
        parent = match[1].rpartition(".")[0].rpartition(".")[2].lower()
        if not OPTION.fullmatch(stem or parent):
            continue
        mark = match[2]
        place = int(mark) if mark.isdigit() else string.ascii_lowercase.index(mark.lower())
        kind = "0" if mark.isdigit() else "A" if mark.isupper() else "a"
        groups[match[1], kind][place] = column
    found = []
    for (_, kind), group in groups.items():
        first = 1 if kind == "0" and 0 not in group else 0
        # Up to the first gap: a column Q beside A, B, C and D is no option.
        series = [group[n] for n in takewhile(group.__contains__, count(first))]
        if sum(bool(column.filled) for column in series) > 1:
            found.append([column.path for column in series])
    return found


def packed_options(columns: Sequence[Column]) -> Column | None:
    """Return a column whose texts seem to hold several options each, which no entry can read."""
    for column in columns:
        if column.is_text and OPTION_LIST.search(column.name):
            several = SEVERAL.search(column.name)
            texts = [value for value in column.present if isinstance(value, str)]
            packed = [t for t in texts if LISTED.fullmatch(t) or several and SEPARATED.search(t)]
            if len(packed) >= 0.5 * len(texts):
                return column
    return None


def partial_options(columns: Sequence[Column]) -> Column | None:
    """Return a column that holds lists of options in some rows only, which no entry can read."""
    for column in columns:
        lists = [value for value in column.present if isinstance(value, list) and len(value) > 1]
        if lists and OPTION_FIELD.search(column.path):
            return column
    return None


def answers(columns: Sequence[Column], taken: Sequence[str]) -> tuple[list[Column], list[Column]]:
    """Return the columns that may hold the answer by their names, and others of single values."""
    free = [column for column in columns if column.is_scalar and column.path not in taken]
    named = [
        column
        for column in free
        if ANSWER.search(column.name)
        and not ABOUT_ANSWER.search(column.name)
        and not RATIONALE.search(column.name)
    ]
    if any(not SOLUTION.search(column.name) for column in named):
        named = [column for column in named if not SOLUTION.search(column.name)]
    named.sort(key=lambda column: column.name != "answer")
    return named, [column for column in free if column not in named]


def classes(column: Column) -> list[str]:
    """Return the distinct answers of a column that gives every question the same options.

    Texts are in alphabetical order, numbers in theirs. Returns an empty list if the answers are
    many, as free-form ones are.
    """
    present = [v[0] if isinstance(v, list) and v else v for v in column.present]
    present = [value for value in present if re.search(r"\w", str(value)) and str(value) != "-1"]
    if present and all(isinstance(value, bool) for value in present):
        return ["yes", "no"]
    counts = Counter(str(value).strip() for value in present)
    if not 2 <= len(counts) <= MOST_CLASSES:
        return []
    if not all(re.fullmatch(r"\d{1,2}(?:\.0)?", each) for each in counts):
        repeated = min(counts.values()) > 1 or sum(counts.values()) >= 10 * len(counts)
        return sorted(counts) if repeated else []
    numbers = sorted(int(float(each)) for each in counts)
    runs = numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[-1] + 1))
    often = min(counts.values()) >= 5 and sum(counts.values()) >= 10 * len(counts)
    return [str(number) for number in numbers] if runs and often else []


def ids(columns: Sequence[Column]) -> list[str]:
    """Return the paths that may identify a row: unique in each row, the default `id` first."""
    unique = [
        column.path
        for column in columns
        if ID.search(column.name)
        and all(isinstance(value, str | int) for value in column.values)
        and len(set(column.values)) == len(column.values)
    ]
    return sorted(unique, key=lambda path: (path != "id", len(path)))


def rationales(columns: Sequence[Column], taken: Sequence[str]) -> list[dict[str, Any]]:
    """Return values of the field `rationales`, the best first; an empty dictionary for the default.

    Numbered columns are one teacher's texts.
    """
    free = [column for column in columns if column.path not in taken]
    inside = [
        column for column in free if re.match(r"(?i)(rationales|explanations)\.", column.path)
    ]
    if inside:
        parent = inside[0].path.partition(".")[0]
        whole = {} if parent == "rationales" else {"rationales": parent}
        grouped = _by_teacher(inside)
        numbered = any(isinstance(paths, list) for paths in grouped.values())
        return [{"rationales": grouped}, whole] if numbered else [whole]
    named = [
        column
        for column in free
        if (RATIONALE.search(column.name) or SOLUTION.search(column.name))
        and not ABOUT_ANSWER.search(column.name)
        and _holds_texts(column)
    ]
    return [{"rationales": _by_teacher(named)}] if named else []


def _holds_texts(column: Column) -> bool:
    texts = [t for v in column.present for t in (v if isinstance(v, list) else [v])]
    return bool(texts) and all(isinstance(text, str) for text in texts)


def _by_teacher(columns: Sequence[Column]) -> dict[str, str | list[str]]:
    """Return the paths of each teacher: `explanation_1` and `explanation_2` are those of one.

    What a name says besides "rationale" is the teacher's name; without more, people wrote it. The
    numbers of a model's name (llama-2) are not those of its texts.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for column in columns:
        numbers[_stem(column)[0]].append(_stem(column)[1])
    groups: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        stem = _stem(column)[0]
        series = sorted(numbers[stem]) == list(range(1, len(numbers[stem]) + 1))  # from 1 on
        by_people = _teacher(stem) == "human" or PEOPLE.search(stem.lower())
        name = stem if series and by_people else column.path.rpartition(".")[2]
        groups[_teacher(name)].append(column.path)
    return {name: paths[0] if len(paths) == 1 else paths for name, paths in groups.items()}


def _stem(column: Column) -> tuple[str, int]:
    """Return the last part of a path without its number, and the number; 0 for none."""
    last = column.path.rpartition(".")[2]
    match = re.fullmatch(r"(.*?)[_\s-]?(\d{1,2})", last)
    return (match[1], int(match[2])) if match else (last, 0)


def _teacher(name: str) -> str:
    words = re.findall(r"[A-Za-z0-9]+", name)
    kept = [word for word in words if not (RATIONALE.search(word.lower()) or SOLUTION.search(word))]
    kept = [word for word in kept if word.lower() not in ("abstractive", "extractive", "by", "of")]
    return "-".join(kept) if kept else "human"
