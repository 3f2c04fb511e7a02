"""Stage `sources`: note what the catalogues' entries hold, so that a changed file is read again.

It also makes the folders of the teachers' tables, which stay empty without a teacher.
"""

import json

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.questions.reading import data_set_content
from stages.distil.storage import tables
from stages.distil.storage.content import SOURCES
from stages.distil.weights.folders import model_content


def sources(parameters: Parameters) -> None:
    """Write a file for each entry: whether the parameters use it, and the content of its files.

    An entry that is not used is not looked at: its disk may not be there.
    """
    # What else DVC runs depends on this file: it removes a stage's outputs before it runs the stage,
    # and a name such as `../x` would make that a folder elsewhere.
    tables.write_text(SOURCES / "checked", "The parameters have been checked.\n")
    for folder in (tables.RATIONALES, tables.USEFULNESS):
        tables.write_text(folder / ".keep", "One table per teacher.\n")
    for name, model in parameters.models.items():
        used = name in parameters.used_models
        _write("models", name, used, model_content(model) if used else {})
    for name, data_set in parameters.datasets.items():
        used = name == parameters.data.name
        _write("datasets", name, used, data_set_content(data_set) if used else {})


def _write(catalogue: str, name: str, used: bool, files: dict[str, str]) -> None:
    text = json.dumps({"used": used, "files": files}, indent=2, ensure_ascii=False)
    tables.write_text(SOURCES / catalogue / f"{name}.json", text + "\n")


if __name__ == "__main__":
    run_stage(sources, __doc__)
