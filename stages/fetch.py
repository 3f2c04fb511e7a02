"""Stage `fetch`, one per model: turn a catalogue entry into a local Hugging Face folder."""

import json

from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.storage.content import SOURCES
from stages.distil.weights.fetching import fetch_model, note_unused


def fetch(parameters: Parameters, model: str) -> None:
    """Write the folder of a model; that of one which the parameters do not use holds no weights."""
    if model not in parameters.models:
        names = ", ".join(parameters.models)
        raise UserError(f"unknown model {model!r}; models in the catalogue: {names}")
    if not _is_used(model):
        print(f"{model}: not fetched, since no parameter names it")
        note_unused(model)
        return
    fetch_model(model, parameters.models[model])


def _is_used(model: str) -> bool:
    """Return whether the parameters use a model; so it is where `sources` has not run."""
    file = SOURCES / "models" / f"{model}.json"
    return not file.is_file() or json.loads(file.read_text(encoding="utf-8"))["used"]


if __name__ == "__main__":
    run_stage(fetch, __doc__, ("model", "name in the catalogue of models"))
