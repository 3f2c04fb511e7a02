"""Which tables `sources` leaves to the stages that depend on a folder of them."""

from stages.distil.interface.parameters import load_parameters
from stages.distil.storage import tables
from stages.sources import sources

FOLDERS = (tables.RATIONALES, tables.USEFULNESS)


def test_the_teachers_folders_hold_the_tables_of_teachers_alone(
    tmp_path, monkeypatch, write_params
):
    monkeypatch.chdir(tmp_path)
    changes = {"teachers": ["one"], "models/one": {"source": "provided"}}
    parameters = load_parameters(write_params(changes))
    for teacher in ("one", "former"):
        tables.write_table(tables.rationale_table(teacher), [])
        tables.write_table(tables.usefulness_table(teacher), [])
    (tables.RATIONALES / "notes.txt").write_text("of a person")
    kept = tables.rationale_table("one").read_bytes()
    sources(parameters)
    held = {folder: sorted(file.name for file in folder.iterdir()) for folder in FOLDERS}
    assert held[tables.RATIONALES] == [".keep", "notes.txt", "one.parquet"]
    assert held[tables.USEFULNESS] == [".keep", "one.parquet"]
    assert tables.rationale_table("one").read_bytes() == kept


def test_without_a_teacher_the_folders_exist(tmp_path, monkeypatch, write_params):
    monkeypatch.chdir(tmp_path)
    changes = {"teachers": [], "saliency/of": "question"}
    sources(load_parameters(write_params(changes)))
    assert [[file.name for file in folder.iterdir()] for folder in FOLDERS] == [[".keep"]] * 2
