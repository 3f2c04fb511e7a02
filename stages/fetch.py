"""Stage `fetch`, one per model: turn a catalogue entry into a local Hugging Face folder."""

import json

from stages.distil.interface.command import run_stage
from stages.distil.interface.errors import UserError
from stages.distil.interface.parameters import Parameters
from stages.distil.storage.content import SOURCES
from stages.distil.weights.checking import refuse_quantised
from stages.distil.weights.fetching import fetch_model, note_unused


def fetch(parameters: Parameters, model: str) -> None:
    """Write the folder of a model; that of one which the parameters do not use holds no weights.

    Raises `UserError` for weights that its uses cannot read. The uses do not change the folder. One
    that is chosen later checks the weights itself.
    """
    if model not in parameters.models:
        names = ", ".join(parameters.models)
        raise UserError(f"unknown model {model!r}; models in the catalogue: {names}")
    if not _is_used(model):
        print(f"{model}: not fetched, since no parameter names it")
        note_unused(model)
        return
    folder = fetch_model(model, parameters.models[model])
    for use, name in _floating_point_uses(parameters).items():
        if name == model:
            refuse_quantised(folder, use)


def _floating_point_uses(parameters: Parameters) -> dict[str, str]:
    """Return the models whose weights are trained, or read in a pass of the project's own."""
    uses = {"student.model": parameters.student.model}
    if parameters.saliency.method != "random":
        uses["saliency.teacher"] = parameters.saliency.teacher
    if parameters.assemble.reads_rationales:
        uses["assemble.scorer"] = parameters.assemble.scorer
    return uses


def _is_used(model: str) -> bool:
    """Return whether the parameters use a model; so it is where `sources` has not run."""
    file = SOURCES / "models" / f"{model}.json"
    return not file.is_file() or json.loads(file.read_text(encoding="utf-8"))["used"]


if __name__ == "__main__":
    run_stage(fetch, __doc__, ("model", "name in the catalogue of models"))
