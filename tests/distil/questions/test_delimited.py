"""Bad quotes in CSV and TSV: each costs its own row."""

import csv
import io
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.distil.interface.catalogue import Files
from stages.distil.interface.errors import UserError
from stages.distil.questions import delimited, files
from stages.distil.storage.examples import Record

HEADER = "id,question,answer"
GOOD = [
    "{n},q{n},a",
    '{n},"q, {n}",a',
    '{n},"two\nlines {n}",a',
    '{n},"he said ""q{n}""",a',
    '"{n}","q","a"',
    '{n},"",a',
    '"{n}","two\n""odd"" lines","a"',
]
UNCLOSED = ['bad,"q,a', 'bad,q,"a', '"bad,q,a', '"bad","q","a', '"bad","q,"a"']
WRONG = [*UNCLOSED, 'bad,"q"x,a', "bad,q", "bad,q,r,a", '"bad"x,"q","a"']


def read(folder, text: str, name: str = "train.csv") -> list[Record]:
    (folder / name).write_bytes(text.encode())
    return list(files.read(Files(source="files", folder=folder), "train"))


def test_only_the_bad_lines_of_a_csv_are_refused(tmp_path):
    lines = [b"id,question,answer", b"1,q,a", b"2,q", b"3,\xff,a", b'4,"q" x,a', b"", b'5,"q,q",a']
    (tmp_path / "train.csv").write_bytes(b"\r\n".join(lines))
    records = list(files.read(Files(source="files", folder=tmp_path), "train"))
    assert [(record.row, record.error[:16]) for record in records] == [
        (2, ""),
        (3, "expected 3 cells"),
        (4, "not UTF-8"),
        (5, "not CSV: ',' exp"),
        (7, ""),
    ]
    assert records[3].text == '4,"q" x,a'
    assert records[4].value["question"] == "q,q"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_bad_quote_in_any_row_costs_that_row_alone(tmp_path, wrong, delimiter):
    for first, second, place in product(GOOD, GOOD, range(4)):
        rows = [row.format(n=n) for n, row in enumerate([first, second, first])]
        expected = [next(csv.DictReader(io.StringIO(f"{HEADER}\n{row}"))) for row in rows]
        rows.insert(place, wrong)
        text = "\n".join([HEADER, *rows]).replace(",", delimiter)
        records = read(tmp_path, text)
        accepted = [record.value for record in records if not record.error]
        expected = [
            {name: cell.replace(",", delimiter) for name, cell in row.items()} for row in expected
        ]
        assert accepted == expected, rows
        line = "\n".join(rows[:place]).count("\n") + 2 + (place > 0)
        assert [record.row for record in records if record.error] == [line], rows


@given(st.lists(st.sampled_from(GOOD + UNCLOSED[:3]), max_size=8))
def test_every_row_between_open_quotes_survives(tmp_path_factory, rows):
    rows = [row.format(n=n) for n, row in enumerate(rows)]
    records = read(tmp_path_factory.mktemp("rows"), "\n".join([HEADER, *rows]))
    ids = [record.value["id"] for record in records if not record.error]
    good = [str(n) for n, row in enumerate(rows) if "bad" not in row]
    assert ids == good
    assert len(records) == len(rows)


def test_an_open_quote_is_reported_where_it_opens(tmp_path):
    records = read(tmp_path, f'{HEADER}\n1,q,a\n2,"q,a\n3,"r",a\n4,"s,a\n5,q,a\n')
    assert [(record.row, record.error) for record in records if record.error] == [
        (3, "not CSV: ',' expected after '\"' (the quoted cell that opens here runs to row 4)"),
        (5, "not CSV: a quote is not closed (the quoted cell that opens here runs to row 6)"),
    ]
    assert [record.text for record in records if record.error] == ['2,"q,a', '4,"s,a']


@pytest.mark.parametrize("line", ['1","q","a', '1,"q,a', 'a",x,"'])
def test_many_open_quotes_take_linear_time(tmp_path, line, monkeypatch):
    """Every line opens a quote; the parser reads no line more than three times."""
    count = 0
    reader = csv.reader

    def counted(lines, **settings):
        def tick():
            nonlocal count
            for text in lines:
                count += 1
                yield text

        return reader(tick(), **settings)

    monkeypatch.setattr(csv, "reader", counted)
    records = read(tmp_path, HEADER + "\n" + (line + "\n") * 2_000)
    assert [record.row for record in records] == list(range(2, 2_002))
    assert all(record.error for record in records)
    assert count <= 3 * 2_001


@pytest.mark.parametrize(
    "text",
    [
        f"{HEADER}\n1,q,a\n2,{'x' * 200},a\n",
        f'{HEADER}\n1,q,a\n2,"q,a\n' + "3,q,a\n" * 40,
        f'{HEADER}\n1,q,a\n2,"q,a\n' + '","x\n' * 40,
    ],
    ids=["a line", "a cell", "many cells"],
)
def test_a_row_longer_than_the_limit_is_named(tmp_path, text, monkeypatch):
    monkeypatch.setattr(delimited, "LONGEST_ROW", 100)
    with pytest.raises(UserError, match=r"train\.csv, row 3: a row is longer than 16 MiB"):
        read(tmp_path, text)


def test_a_wrong_byte_in_a_cell_of_two_lines_costs_one_row(tmp_path):
    (tmp_path / "train.csv").write_bytes(f'{HEADER}\n1,"q\nr\xff",a\n2,q,a'.encode("latin-1"))
    records = list(files.read(Files(source="files", folder=tmp_path), "train"))
    assert [(record.row, record.error) for record in records] == [(2, "not UTF-8"), (4, "")]
