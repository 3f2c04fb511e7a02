"""Stage `sources`: note what the catalogues' entries hold, so that a changed file is read again.

It also owns the folders of the teachers' tables: it makes them, which stay empty without a teacher,
and removes what former teachers left in them.
"""

import json

from stages.distil.interface.command import run_stage
from stages.distil.interface.parameters import Parameters
from stages.distil.questions.reading import data_set_content
from stages.distil.storage import tables
from stages.distil.storage.content import SOURCES
from stages.distil.storage.rationales import make_folders
from stages.distil.weights.folders import model_content


def sources(parameters: Parameters) -> None:
    """Write a file for each entry: whether the parameters use it, and the content of its files.

    An entry that is not used is not looked at: its disk may not be there.
    """
    # All other stages come after this file: DVC removes a stage's outputs before it runs the stage,
    # and a name such as `../x` would make that a folder elsewhere.
    tables.write_text(SOURCES / "checked", "The parameters have been checked.\n")
    make_folders(parameters.teachers)
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
